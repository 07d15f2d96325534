"""Testing corrects predictions by the labels of the run's cohort, where they are at hand and pay."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import test_baseline
from semisam_o1.commands.correcting import ScanCorrection, load_correction
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Dataset, Geometry, content_hash
from semisam_o1.features.builtin import BuiltinFeatures
from semisam_o1.networks import build_network
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.runs.best import record_of
from semisam_o1.runs.find import find_trained
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, write_round
from tiny_cohort import write_cohort

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with an untrained network and perfect labels of its cohort."""
    root = write_cohort(tmp_path / "data")
    (root / "test.txt").write_text("test0\n")
    folder = RunFolder.of(str(tmp_path / "run"), "mt", 1, "unet_3D")
    folder.create()
    dataset = Dataset(root)
    volumes = {name: dataset.load(name) for name in dataset.names("train.txt")}
    arguments = {
        "root_path": str(root), "image_key": "image", "binary_label": False, "labeled_num": 1, "num_classes": 3,
        "patch_size": [32, 16, 16], "refinement": "fusion", "features": "builtin", "knn_k": 2, "sam_ckpt": "none.pth",
    }  # fmt: skip
    data = {
        "train.txt": {name: content_hash(volume.image) for name, volume in volumes.items()},
        "labels": {"train0": content_hash(volumes["train0"].label)},
    }
    folder.args.write_text(json.dumps({"arguments": arguments, "features": BuiltinFeatures.key, "data": data}))
    write_round(folder, labels_of(dataset), RoundRecord(0, 0.1, None, (), 0.0, None, None, 1.0))
    write_gain(folder, None)
    torch.manual_seed(0)
    for path in (folder.best_model, folder.round_best(1)):
        torch.save(build_network("unet_3D", 3).state_dict(), path)
    return folder


def labels_of(dataset: Dataset) -> PseudoLabels:
    """Return the true labels as those of a round, of which the network was sure."""
    labels = {name: dataset.label(name) for name in dataset.names("train.txt")}
    return PseudoLabels(labels, confidence={name: np.full_like(label, 240) for name, label in labels.items()})


def write_gain(folder: RunFolder, gain: float | None, error: float | None = None) -> None:
    """Write the first round with what correction was worth to it."""
    record = RoundRecord(1, 0.1, 0.5, (), 0.0, None, None, 1.0, 0.3, 4, correction_gain=gain, correction_error=error)
    write_round(folder, labels_of(Dataset(root_of(folder))), record)


def root_of(folder: RunFolder) -> Path:
    return Path(json.loads(folder.args.read_text())["arguments"]["root_path"])


def mean_dice(folder: RunFolder, *flags: str, root: Path | None = None) -> float:
    """Return the mean Dice of the test scan."""
    command = ["--root_path", str(root or root_of(folder)), "--exp", str(folder.path), "--device", "cpu", *flags]
    assert run_command(test_baseline.main, command) == 0
    cases = json.loads(folder.test_metrics.read_text())["per_case"]
    return float(np.mean([case["dice"] for case in cases]))


def test_labels_of_the_cohort_correct_a_network_that_knows_nothing(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, corrected = mean_dice(run, "--correction", "off"), mean_dice(run)
    assert ", corrected by the labels of the cohort" in capsys.readouterr().out
    assert corrected > alone + 0.3
    assert json.loads(run.test_metrics.read_text())["correction"] is True
    assert not (root_of(run) / "features").exists(), "testing leaves nothing in the dataset"


@pytest.mark.parametrize(
    ("gain", "error", "wanted", "corrects"),
    [
        (None, None, None, True),
        (0.01, 0.005, None, True),
        (-0.01, None, None, False),  # as runs of earlier versions and of one validation scan state it
        (-0.01, 0.005, None, False),
        (-0.01, 0.02, None, True),
        (-0.01, 0.005, True, True),
        (0.01, 0.005, False, False),
    ],
)
def test_it_is_left_out_where_it_cost_validation_scans(
    run: RunFolder, gain: float | None, error: float | None, wanted: bool | None, corrects: bool
) -> None:
    write_gain(run, gain, error)
    trained = find_trained(str(run.path))
    correction = load_correction(trained, record_of(run, trained.checkpoint), wanted, torch.device("cpu"))
    assert (correction is not None) == corrects


def test_other_checkpoints_are_not_corrected(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    other = run.path / "other.pth"
    other.write_bytes(run.best_model.read_bytes())
    mean_dice(run, "--ckpt", other.name)
    assert "corrected" not in capsys.readouterr().out
    flags = ["--root_path", str(root_of(run)), "--exp", str(run.path), "--ckpt", other.name, "--correction", "on"]
    assert run_command(test_baseline.main, flags) == 2
    assert "--correction on: " in capsys.readouterr().err


def test_a_cohort_that_is_gone_is_done_without_and_said(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    root = root_of(run)
    moved = root.rename(root.with_name("moved"))
    alone = mean_dice(run, root=moved)
    assert "warning: predictions are not corrected by the labels of the cohort" in capsys.readouterr().out
    assert alone == mean_dice(run, "--correction", "off", root=moved)


def spoil_image(run: RunFolder) -> None:
    with h5py.File(root_of(run) / "data" / "train3.h5", "r+") as file:
        file["image"][0, 0, 0] += 1


def spoil_template(run: RunFolder) -> None:
    with h5py.File(root_of(run) / "data" / "train0.h5", "r+") as file:
        file["label"][4, 4, 4] = 1 - file["label"][4, 4, 4]


def remove_template_label(run: RunFolder) -> None:
    with h5py.File(root_of(run) / "data" / "train0.h5", "r+") as file:
        del file["label"]


def remove_scan(run: RunFolder) -> None:
    (root_of(run) / "data" / "train4.h5").unlink()


def remove_confidence(run: RunFolder) -> None:
    run.confidence(1).unlink()


def spoil_label(run: RunFolder) -> None:
    with h5py.File(run.pseudo_labels(1), "r+") as file:
        file["train2"][0, 0, 0] = 9


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_image, "train3.h5 changed since the run"),
        (spoil_template, "train0.h5 changed since the run"),
        (remove_template_label, "train0.h5 changed since the run"),
        (remove_scan, "train4.h5, a scan of the run's cohort, is missing"),
        (remove_confidence, "round1_confidence.h5 is missing"),
        (spoil_label, "holds no label of train2 that a run wrote"),
    ],
)
def test_a_cohort_that_changed_since_the_run_is_done_without(
    run: RunFolder, spoil: Callable[[RunFolder], None], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(run)
    mean_dice(run)
    out = capsys.readouterr().out
    assert told in out and ", corrected by" not in out


def test_nothing_is_kept_of_scans_that_were_corrected(run: RunFolder) -> None:
    trained = find_trained(str(run.path))
    correct = load_correction(trained, record_of(run, trained.checkpoint), True, torch.device("cpu"))
    volume = Dataset(root_of(run)).load("test0")
    flat = np.full((3, *volume.image.shape), 1 / 3, np.float32)
    corrected = correct(volume, flat)
    kept = [len(part) for part in kept_by(correct)]
    unknown = dataclasses.replace(volume, geometry=Geometry())
    np.testing.assert_array_equal(correct(unknown, flat), corrected)  # counts as spaced like the template
    assert [len(part) for part in kept_by(correct)] == kept
    finer = dataclasses.replace(volume, geometry=Geometry((0.5, 0.75, 1.0), known=True))
    assert not np.array_equal(correct(finer, flat), corrected)


def kept_by(correct: ScanCorrection) -> list[Mapping[str, object]]:
    atlas = correct._correct.atlas
    return [correct._info, correct._features, correct._store.guests, correct._cache._kept, atlas._channels]


@pytest.mark.parametrize(
    "changes", [{"data": None}, {"data": {"train.txt": {"train0": 5}}}, {"features": None}, {"features": "sam-other"}]
)
def test_a_run_that_does_not_state_its_scans_and_features_is_not_corrected(
    run: RunFolder, changes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(run.args.read_text())
    run.args.write_text(json.dumps(content | changes))
    mean_dice(run)
    assert "warning: predictions are not corrected" in capsys.readouterr().out
