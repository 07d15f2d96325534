"""The real commands, from a tiny dataset to a tested model."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

import test_baseline
from real_training import same, train, weights
from semisam_o1.commands.api import load_run
from semisam_o1.core.errors import run_command
from semisam_o1.networks.levels import ISOTROPIC, choose_levels
from tiny_cohort import train_flags, write_cohort


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("tiny"))


def tags(folder: Path) -> set[str]:
    """Return the tags of all TensorBoard summaries in a folder."""
    found = set()
    for path in folder.glob("events.*"):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found |= {value.tag for value in event.summary.value}
            data = data[16 + length :]
    return found


@pytest.mark.parametrize("backbone", ["mt", "uamt", "dan", "dtc"])
def test_every_backbone_trains_and_is_found_by_its_name(
    backbone: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exp = tmp_path / "runs" / "tiny"
    assert train(*train_flags(dataset, exp, backbone=backbone, num_rounds=2)) == 0, capsys.readouterr().err
    model = "unet_3D_sdf" if backbone == "dtc" else "unet_3D"
    folder = tmp_path / "runs" / f"tiny_{backbone.upper()}_1label_1" / model
    expected = {
        "args.json", "log.txt", "metrics.jsonl", "log", "pseudo_labels", "round1_best.pth", "round2_best.pth",
        "round1_iter3.pth", f"{model}_best_model.pth", "state.pth", "results_summary.txt", "round_tracking.json",
        "figures",
    }  # fmt: skip
    assert expected <= {path.name for path in folder.iterdir()}
    assert {path.name for path in (folder / "figures").iterdir()} == {"curves.png", "pseudo_labels.png"}
    tracking = json.loads((folder / "round_tracking.json").read_text())
    assert [record["round"] for record in tracking] == [0, 1, 2]
    terms = {json_key for line in (folder / "metrics.jsonl").open() for json_key in json.loads(line)}
    wanted = {
        "loss/total", "loss/supervised_ce", "loss/supervised_dice", "loss/pseudo_ce", "loss/pseudo_dice",
        "loss/consistency", "weight/pseudo_ce", "weight/consistency", "train/learning_rate",
        "train/iterations_per_second", "validation/dice", "validation/dice_class1", "validation/dice_class2",
        "pseudo_labels/foreground_ratio", "pseudo_labels/uncertainty", "pseudo_labels/refined_share",
        "pseudo_labels/pseudo_dice",
    }  # fmt: skip
    wanted |= {"dan": {"loss/discriminator"}, "dtc": {"loss/pseudo_distance"}}.get(backbone, set())
    assert wanted <= terms
    assert wanted | {"patches/labeled", "patches/pseudo-labeled"} <= tags(folder / "log")

    capsys.readouterr()
    assert run_command(test_baseline.main, ["--root_path", str(dataset), "--exp", str(exp), "--device", "cpu"]) == 0
    assert "2 cases, metrics as medpy defines them" in capsys.readouterr().out
    assert len((folder / "test_metrics.csv").read_text().splitlines()) == 1 + 2 * 2
    summary = json.loads((folder / "test_metrics.json").read_text())["summary"]
    assert set(summary["classes"]) == {"1", "2"}
    assert {"dice", "jaccard", "hd95", "asd", "hd95_mm", "asd_mm"} == set(summary["overall"])
    if backbone == "mt":
        again = ["--root_path", str(dataset), "--exp", str(exp), "--device", "cpu", "--metrics", "medpy"]
        assert run_command(test_baseline.main, again) == 0
        assert "2 cases, metrics of medpy" in capsys.readouterr().out
        other = json.loads((folder / "test_metrics.json").read_text())["summary"]
        assert other["overall"]["asd"]["mean"] == pytest.approx(summary["overall"]["asd"]["mean"], abs=1e-9)


def test_a_network_for_thick_slices_is_built_anew_wherever_it_is_used(dataset: Path, tmp_path: Path) -> None:
    exp = tmp_path / "run"
    flags = {"patch_size": "32 32 7", "network_levels": "auto", "backbone": "dtc", "registration": "off"}
    assert train(*train_flags(dataset, exp, **flags)) == 0
    (folder,) = tmp_path.glob("run_*/unet_3D_sdf")
    levels = json.loads((folder / "args.json").read_text())["arguments"]["network_levels"]
    assert levels == choose_levels((32, 32, 7), (1.0, 1.5, 2.0)) != ISOTROPIC
    assert run_command(test_baseline.main, ["--root_path", str(dataset), "--exp", str(exp), "--device", "cpu"]) == 0
    assert (folder / "test_metrics.json").is_file()
    image = np.random.default_rng(1).standard_normal((30, 20, 12), np.float32)
    assert load_run(str(exp), device="cpu").predict(image).label.shape == image.shape
    assert train(*train_flags(dataset, exp, **flags, resume="on")) == 0


def test_pseudo_label_files_hold_every_volume(dataset: Path, tmp_path: Path) -> None:
    assert train(*train_flags(dataset, tmp_path / "run")) == 0
    with h5py.File(tmp_path / "run_MT_1label_1" / "unet_3D" / "pseudo_labels" / "round1.h5") as file:
        assert set(file) == {f"train{i}" for i in range(6)}
        for name, label in file.items():
            with h5py.File(dataset / "data" / f"{name}.h5") as source:
                assert (label.dtype, label.shape) == (np.uint8, source["image"].shape)
                if name == "train0":
                    assert np.array_equal(label, source["label"])
        assert sum(bool(label.attrs["refined"]) for label in file.values()) == 2
        assert all(0 < file[f"train{i}"].attrs["uncertainty"] < np.log(3) for i in range(1, 6))
        assert "dice" in file["train1"].attrs


def test_second_run_extracts_nothing_and_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cohort(tmp_path / "data")
    assert train(*train_flags(root, tmp_path / "a", log_images=0)) == 0
    assert "0 found on disk, 6 computed" in capsys.readouterr().out
    assert train(*train_flags(root, tmp_path / "b", log_images=2)) == 0
    assert "6 found on disk, nothing extracted" in capsys.readouterr().out
    first, second = (weights(tmp_path / f"{run}_MT_1label_1" / "unet_3D") for run in "ab")
    assert same(first, second)
    assert train(*train_flags(root, tmp_path / "c", seed=2)) == 0
    assert not same(first, weights(tmp_path / "c_MT_1label_1" / "unet_3D"))


def test_streaming_from_disk_trains_the_same_network(dataset: Path, tmp_path: Path) -> None:
    for cache, workers in (("ram", 0), ("none", 0), ("none", 1)):
        flags = train_flags(dataset, tmp_path / f"{cache}{workers}", cache=cache, num_workers=workers)
        assert train(*flags) == 0
    runs = [weights(tmp_path / f"{name}_MT_1label_1" / "unet_3D") for name in ("ram0", "none0", "none1")]
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])


def test_prototypes_from_the_checkpoint(
    filled_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_cohort(tmp_path / "data")
    flags = train_flags(
        root, tmp_path / "run", propagation="prototype", features="sam", sam_ckpt=filled_checkpoint, labeled_num=2
    )
    assert train(*flags) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "6 computed" in out
    assert "covers no cell of the feature grid" in out, "these scans are smaller than two cells of 16 voxels"
    kept = list((root / "features").rglob("*.npz"))
    assert len(kept) == 6
    with np.load(kept[0]) as file:
        assert file["spatial"].shape == (384, 8, 8, 8)
        assert np.linalg.norm(file["whole"]) == pytest.approx(1, abs=1e-6)


def test_prototypes_from_builtin_features_with_larger_batches(dataset: Path, tmp_path: Path) -> None:
    flags = train_flags(
        dataset, tmp_path / "run", propagation="prototype", labeled_num=2, labeled_bs=2, batch_size=5, num_classes=4
    )
    assert train(*flags) == 2  # no template shows class 3
    flags = train_flags(dataset, tmp_path / "run", propagation="prototype", labeled_num=2, labeled_bs=2, batch_size=5)
    assert train(*flags) == 0


def test_binary_label_and_saved_predictions(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*train_flags(dataset, tmp_path / "run", num_classes=2), "--binary_label") == 0
    flags = ["--root_path", dataset, "--exp", tmp_path / "run", "--save_pred", tmp_path / "out", "--device", "cpu"]
    assert run_command(test_baseline.main, [str(flag) for flag in flags]) == 0
    for kind in ("pred", "img", "lab"):
        image = nibabel.load(tmp_path / "out" / f"test0_{kind}.nii.gz")
        assert image.shape == (26, 20, 17)
        assert image.header.get_zooms() == (1.0, 1.5, 2.0)
    label = nibabel.load(tmp_path / "out" / "test0_lab.nii.gz").get_fdata()
    assert set(np.unique(label)) == {0, 1}
    folder = tmp_path / "run_MT_1label_1" / "unet_3D"
    before = (folder / "test_metrics.json").read_text()
    assert run_command(test_baseline.main, [str(flag) for flag in flags]) == 2, "predictions would be overwritten"
    assert "already holds test0_pred.nii.gz" in capsys.readouterr().err
    assert run_command(test_baseline.main, [*map(str, flags), "--overwrite"]) == 0
    assert not list(folder.glob("test_*_1.*")), "the same results are not kept twice"
    assert run_command(test_baseline.main, [str(flag) for flag in [*flags[:4], "--stride_z", 3]]) == 0
    assert (folder / "test_metrics_1.json").read_text() == before
    assert {path.name for path in folder.glob("test_*_1.*")} == {
        "test_metrics_1.json", "test_metrics_1.csv", "test_predictions_1.h5",
    }  # fmt: skip
    assert json.loads((folder / "test_metrics.json").read_text())["stride"][2] == 3


def test_the_best_recipe_trains_resumes_and_is_tested(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Registration, fusion, warps, weights and the warm start, once in one go and once stopped after a round."""
    flags = {"recipe": "best", "max_iterations": 2, "num_rounds": 2}
    unset = ("--backbone", "--propagation", "--features", "--registration")

    def command(exp: str, **changes: object) -> list[str]:
        whole = train_flags(dataset, tmp_path / exp, **(flags | changes))
        return [part for i, part in enumerate(whole) if part not in unset and (i == 0 or whole[i - 1] not in unset)]

    assert train(*command("whole")) == 0, capsys.readouterr().err
    folder = tmp_path / "whole_MT_1label_1" / "unet_3D"
    arguments = json.loads((folder / "args.json").read_text())["arguments"]
    assert arguments["propagation"] == "atlas"
    assert arguments["refinement"] == "fusion"
    assert arguments["augmentation"] == ["spatial", "intensity", "template"]
    with h5py.File(folder / "pseudo_labels" / "round1_confidence.h5") as file:
        file_names = sorted(file)
        assert file_names == [f"train{i}" for i in range(1, 6)]
        assert all(values[()].min() >= 255 // 3 for values in file.values())
    records = json.loads((folder / "round_tracking.json").read_text())
    assert records[1]["kept"] == file_names, "a network of two iterations has not learned"
    assert 0.3 < records[0]["expected_dice"] == records[1]["expected_dice"] <= 1
    assert len(records[1]["reliability"]) == 2
    assert -1 < records[1]["correction_gain"] < 1
    assert records[1]["correction_error"] is None, "one scan tells no spread"
    assert train(*command("parts", num_rounds=1)) == 0
    assert train(*command("parts", resume="on")) == 0, capsys.readouterr().err
    parts = tmp_path / "parts_MT_1label_1" / "unet_3D"
    ends = [torch.load(path / "round2_best.pth", weights_only=True) for path in (folder, parts)]
    assert same(*ends)
    assert not same(ends[0], weights(folder))
    tested = ["--root_path", str(dataset), "--exp", str(tmp_path / "whole"), "--stride_xy", "16", "--stride_z", "16"]
    assert run_command(test_baseline.main, tested) == 0, capsys.readouterr().err
