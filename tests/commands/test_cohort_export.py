"""A label for every scan of a dataset: the mask of the user, the label of the best round, or a prediction."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

import prepare_data
from exported_cohort import ARGUMENTS, export, exported, point_to, rows, run_of, write_partly_labeled
from semisam_o1.commands import judging
from semisam_o1.commands.export import write_image
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Dataset, Geometry
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, write_round


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_partly_labeled(tmp_path / "data")


@pytest.mark.parametrize(
    ("dice", "round0", "best", "description"),
    [
        ((0.5, 0.861, 0.7), 0.6, 2, "round 0 0.600, round 1 0.500, round 2 0.861, round 3 0.700"),
        ((0.147,), 0.82, 0, "round 0 0.820, round 1 0.147"),
        ((0.8, 0.8), 0.2, 1, "round 0 0.200, round 1 0.800, round 2 0.800"),
        ((), 0.1, 0, "no other round is finished yet"),
    ],
)
def test_labels_are_those_of_the_round_with_the_best_validation_dice(
    dice: tuple[float, ...],
    round0: float,
    best: int,
    description: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    point_to(run_of(tmp_path, dice), root)
    monkeypatch.setattr(judging, "round0_dice", lambda *_: round0)
    assert export(tmp_path / "run", tmp_path / "out") == 0
    assert (exported(tmp_path / "out", "train5") == 10 + best).all()
    assert description in capsys.readouterr().out


def test_round_0_is_judged_by_propagation_to_the_validation_scans(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    point_to(run_of(tmp_path, (0.01,)), root)
    assert export(tmp_path / "run", tmp_path / "out") == 0
    assert "the best by validation Dice: round 0 0." in capsys.readouterr().out
    assert (exported(tmp_path / "out", "train5") == 10).all()
    assert float(rows(tmp_path / "out")["train5"]["validation_dice"]) > 0.3


@pytest.mark.parametrize(("shift", "best"), [(1, 1), (9, 0)])
def test_without_validation_a_network_that_learned_nothing_is_not_used(
    shift: int, best: int, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_of(tmp_path, ())
    dataset = Dataset(tmp_path / "whole")
    point_to(folder, root)
    (root / "val.txt").unlink()
    truth = {name: dataset.load(name).label for name in dataset.names("train.txt")}
    for round_ in (0, 1):
        labels = {name: np.roll(label, shift * round_, axis=0) for name, label in truth.items()}
        record = RoundRecord(round_, 0.1, None, (), 0.0, None, None, 1.0, None, 4 if round_ else None)
        write_round(folder, PseudoLabels(labels), record)
    assert export(tmp_path / "run", tmp_path / "out") == 0
    assert rows(tmp_path / "out")["train5"]["label"] == f"round {best}"
    assert "no validation scan has a label; agreement with the labels trained on" in capsys.readouterr().out


def test_a_round_can_be_chosen(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    point_to(run_of(tmp_path, (0.9, 0.1)), root)
    assert export(tmp_path / "run", tmp_path / "out", "--round", "2") == 0
    assert (exported(tmp_path / "out", "train5") == 12).all()
    assert export(tmp_path / "run", tmp_path / "other", "--round", "7") == 2
    assert "--round 7" in (error := capsys.readouterr().err) and "choose among 0, 1, 2" in error


def test_without_a_network_the_other_scans_are_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    point_to(run_of(tmp_path, ()), root)
    assert export(tmp_path / "run", tmp_path / "out") == 0
    assert {name for name, row in rows(tmp_path / "out").items() if row["label"] == "none"} == {"test1", "extra"}
    assert "2 scans outside of training have no label: no network is trained yet" in capsys.readouterr().out


def test_images_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of(tmp_path, (0.5,))
    monkeypatch.setattr(Dataset, "load", None)
    assert export(tmp_path / "run", tmp_path / "out") == 0


def test_files_are_replaced_only_when_asked(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    point_to(run_of(tmp_path, ()), root)
    out = tmp_path / "out"
    assert export(tmp_path / "run", out) == 0
    assert export(tmp_path / "run", out) == 2
    assert "already holds train0.nii.gz" in capsys.readouterr().err
    (out / "train3.nii.gz").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    assert export(tmp_path / "run", out, "--skip_existing") == 0
    assert (out / "train3.nii.gz").exists()
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items())
    assert export(tmp_path / "run", out, "--overwrite") == 0
    (out / "labels.csv").write_text("patient,age\n")
    assert export(tmp_path / "run", out, "--overwrite") == 2
    assert "labels.csv was written by something else" in capsys.readouterr().err


def test_a_scan_prepared_again_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    point_to(run_of(tmp_path, ()), root)
    with h5py.File(root / "data" / "train3.h5", "r+") as file:
        image = file["image"][1:]
        del file["image"]
        file["image"] = image
    assert export(tmp_path / "run", tmp_path / "out") == 2
    assert "train3.h5 was prepared again since the run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["train4", "test0"])
def test_a_damaged_scan_is_refused_or_skipped(
    name: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    point_to(run_of(tmp_path, ()), root)
    (root / "data" / f"{name}.h5").write_text("no scan")
    assert export(tmp_path / "run", tmp_path / "out") == 2
    assert f"{name}.h5" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert export(tmp_path / "run", tmp_path / "out", "--continue_on_error") == 1
    error = capsys.readouterr().err
    assert "skipped: 1 scan," in error and f"{name}.h5" in error
    assert (tmp_path / "out" / "train5.nii.gz").exists()


@pytest.mark.parametrize("content", [b"", b"no labels"])
def test_damaged_labels_of_a_round_are_named(
    content: bytes, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_of(tmp_path, (0.9,))
    folder.pseudo_labels(1).write_bytes(content)
    assert export(tmp_path / "run", tmp_path / "out") == 2
    assert "round1.h5" in (error := capsys.readouterr().err) and "--resume" in error
    assert not (tmp_path / "out").exists()


def stored_maps(folder: RunFolder, round_: int, value: float) -> None:
    """Write the probabilities of a round's labels, the same everywhere."""
    with h5py.File(folder.pseudo_labels(round_)) as labels, h5py.File(folder.confidence(round_), "w") as file:
        for name in labels:
            file[name] = np.full(labels[name].shape, round(255 * value), np.uint8)


def test_the_probability_of_each_label_is_exported(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_of(tmp_path, ())
    point_to(folder, root)
    out = tmp_path / "out"
    assert export(tmp_path / "run", out, "--probabilities") == 2
    assert "the run kept no probabilities of round 0" in capsys.readouterr().err
    assert not out.exists()
    stored_maps(folder, 0, 0.6)
    assert export(tmp_path / "run", out, "--probabilities") == 0
    np.testing.assert_allclose(exported(out, "train5_confidence"), 0.6, atol=0.01)
    assert not (out / "train0_confidence.nii.gz").exists(), "a mask of the user's is certain"


def prepared_from(tmp_path: Path, spacing: float) -> tuple[np.ndarray, Path]:
    """Prepare two scans of which the first has a mask, and write a run on them; return the mask and the experiment."""
    mask = np.zeros((26, 22, 20), np.uint8)
    mask[5:18, 4:15, 3:14] = 7
    for i in range(2):
        image = mask + np.random.default_rng(i).standard_normal(mask.shape).astype(np.float32)
        write_image(tmp_path / "scans" / f"s{i}.nii.gz", image, Geometry(known=True))
    write_image(tmp_path / "masks" / "s0.nii.gz", mask, Geometry(known=True))
    files = ["--images", str(tmp_path / "scans"), "--labels", str(tmp_path / "masks"), str(tmp_path / "data")]
    settings = ["--spacing", str(spacing), "--label_map", "7=1", "--class_names", "liver"]
    assert run_command(prepare_data.main, ["nifti", *files, *settings]) == 0
    dataset, folder = Dataset(tmp_path / "data"), RunFolder.of(str(tmp_path / "run"), "mt", 1, "unet_3D")
    folder.create()
    arguments = {**ARGUMENTS, "root_path": str(dataset.root), "labeled_num": 1, "num_classes": 2}
    preparation = json.loads((dataset.root / "preparation.json").read_text())
    folder.args.write_text(json.dumps({"arguments": arguments, "preparation": preparation}))
    labels = {name: np.zeros(dataset.header(name).grid.size, np.uint8) for name in ("s0", "s1")}
    write_round(folder, PseudoLabels(labels), RoundRecord(0, 0.1, None, (), 0.0, None, None, 1.0))
    return mask, tmp_path / "run"


def test_an_own_mask_is_exported_as_it_was_drawn(tmp_path: Path) -> None:
    mask, exp = prepared_from(tmp_path, 2.5)
    assert export(exp, tmp_path / "out") == 0
    np.testing.assert_array_equal(exported(tmp_path / "out", "s0"), mask > 0)
    image = sitk.ReadImage(str(tmp_path / "out" / "s0.nii.gz"))
    assert image.GetMetaData("ITK_FileNotes") == "written by SemiSAM-O1: 1 liver"
    assert '1 213 94 0 1 1 1 "liver"' in (tmp_path / "out" / "classes.txt").read_text()

    write_image(tmp_path / "masks" / "s0.nii.gz", np.roll(mask, 6, axis=0), Geometry(known=True))
    assert export(exp, tmp_path / "out", "--overwrite") == 0  # a mask that was changed since: as prepared
    label = exported(tmp_path / "out", "s0")
    assert 2 * np.sum(label * (mask > 0)) / (label.sum() + np.sum(mask > 0)) > 0.85
