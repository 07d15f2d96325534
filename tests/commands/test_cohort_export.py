"""The labels of a run's own scans: of its best round, with the user's own labels, read without the images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import predict
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, write_round
from tiny_cohort import write_cohort


def write_run(root: Path, exp: Path, dice: tuple[float, ...]) -> RunFolder:
    """Write a run of two labeled scans without a checkpoint; the pseudo-labels of round r have the value r + 10."""
    folder = RunFolder.of(str(exp), "mt", 2, "unet_3D")
    folder.create()
    arguments = {"root_path": str(root), "image_key": "image", "binary_label": False, "labeled_num": 2}
    folder.args.write_text(json.dumps({"arguments": arguments}))
    dataset = Dataset(root)
    volumes = {name: dataset.load(name) for name in dataset.names("train.txt")}
    for round_, score in enumerate((None, *dice)):
        labels = {name: np.full_like(volume.label, round_ + 10) for name, volume in volumes.items()}
        labels |= {name: volumes[name].label for name in ("train0", "train1")}
        record = RoundRecord(round_, 0.1, None, (), 0.0, None, None, 1.0, score, None if score is None else 4)
        write_round(folder, PseudoLabels(labels), record)
    return folder


def export(exp: Path, out: Path, *flags: str) -> int:
    return run_command(predict.main, ["--exp", str(exp), "--cohort", "--out", str(out), *flags])


def exported(out: Path, name: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(out / f"{name}.nii.gz"))).T


@pytest.mark.parametrize(
    ("dice", "best", "description"),
    [
        ((0.5, 0.861, 0.7), 2, "round 2 of 3, best validation Dice 0.861"),
        ((0.8, 0.8), 1, "round 1 of 2, best validation Dice 0.800"),
        ((), 0, "round 0, no round of training is finished yet"),
    ],
)
def test_labels_are_those_of_the_best_round(
    dice: tuple[float, ...], best: int, description: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(write_cohort(tmp_path / "data"), tmp_path / "run", dice)
    assert export(tmp_path / "run", tmp_path / "out") == 0
    assert (exported(tmp_path / "out", "train5") == 10 + best).all()
    assert description in capsys.readouterr().out


def test_every_scan_of_the_list_is_exported_the_labeled_ones_with_their_own_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_cohort(tmp_path / "data")
    write_run(root, tmp_path / "run", (0.5,))
    assert export(tmp_path / "run", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"train{i}.nii.gz" for i in range(6)]
    for name in ("train0", "train1"):
        np.testing.assert_array_equal(exported(tmp_path / "out", name), Dataset(root).load(name).label)
    assert "the labels of 6 scans, 2 of them your own" in capsys.readouterr().out


def test_images_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(write_cohort(tmp_path / "data"), tmp_path / "run", (0.5,))
    monkeypatch.setattr(Dataset, "load", None)
    assert export(tmp_path / "run", tmp_path / "out") == 0


def test_what_does_not_belong_together_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cohort(tmp_path / "data")
    write_run(root, tmp_path / "run", (0.5,))
    assert export(tmp_path / "run", tmp_path / "out") == 0
    assert export(tmp_path / "run", tmp_path / "out") == 2
    assert "already holds train0.nii.gz" in capsys.readouterr().err
    assert export(tmp_path / "run", tmp_path / "out", "--overwrite") == 0
    (root / "train.txt").write_text("train0\ntest0\n")
    assert export(tmp_path / "run", tmp_path / "other") == 2
    assert "holds no label of test0" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
