"""The real commands, from a tiny dataset to a tested model."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

import test_baseline
import train_SemiSAM_O1
from semisam_o1.commands.api import load_run
from semisam_o1.core.errors import run_command
from semisam_o1.networks.levels import ISOTROPIC, choose_levels
from semisam_o1.training.trainer import RoundTrainer
from tiny_cohort import train_flags, write_cohort

CODE = Path(__file__).resolve().parents[2] / "code"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("tiny"))


def train(*flags: str) -> int:
    return run_command(train_SemiSAM_O1.main, list(flags))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "round1_best.pth", weights_only=True)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


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


@pytest.mark.parametrize("backbone", ["mt", "dan"])
def test_an_interrupted_run_goes_on_to_the_same_end(
    backbone: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"backbone": backbone, "num_rounds": 2, "precision": "fp32"}
    assert train(*train_flags(dataset, tmp_path / "whole", **settings)) == 0
    step = RoundTrainer.train_step

    def step_and_stop(self: RoundTrainer, batch: object) -> None:
        step(self, batch)
        if self.context.round_ == 2 and self.iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RoundTrainer, "train_step", step_and_stop)
    assert train(*train_flags(dataset, tmp_path / "cut", **settings)) == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.undo()
    assert train(*train_flags(dataset, tmp_path / "cut", **settings), "--resume") == 0
    assert "continues after iteration 3" in capsys.readouterr().out
    whole, cut = (tmp_path / f"{name}_{backbone.upper()}_1label_1" / "unet_3D" for name in ("whole", "cut"))
    for name in ("round2_best.pth", "unet_3D_best_model.pth"):
        assert same(*(torch.load(folder / name, weights_only=True) for folder in (whole, cut)))
    steps = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").open() if "loss/total" in line]
    assert steps == list(range(1, 9))


def test_resume_refuses_other_arguments_and_runs_are_not_overwritten(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = train_flags(dataset, tmp_path / "run")
    assert train(*flags) == 0
    before = (tmp_path / "run_MT_1label_1" / "unet_3D" / "round1_best.pth").stat().st_mtime_ns
    assert train(*flags) == 2
    assert "--resume" in capsys.readouterr().err
    assert train(*train_flags(dataset, tmp_path / "run", base_lr=0.02), "--resume") == 2
    assert "--base_lr was 0.01 and is 0.02" in capsys.readouterr().err
    assert train(*flags, "--resume") == 0
    assert (tmp_path / "run_MT_1label_1" / "unet_3D" / "round1_best.pth").stat().st_mtime_ns == before
    assert train(*flags, "--overwrite") == 0


def test_resume_refuses_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cohort(tmp_path / "data")
    flags = train_flags(root, tmp_path / "run", max_iterations=2)
    assert train(*flags) == 0
    with h5py.File(root / "data" / "train0.h5", "r+") as file:
        file["label"][5, 6, 7] = 2 - file["label"][5, 6, 7]
    assert train(*flags, "--resume") == 2
    error = capsys.readouterr().err
    assert f"labels of {root} changed" in error
    assert "train0" in error


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups to signal")
def test_a_signal_to_the_whole_group_saves_the_state(dataset: Path, tmp_path: Path) -> None:
    flags = train_flags(
        dataset, tmp_path / "run", cache="none", num_workers=1, max_iterations=2000, val_interval=2000, log_images=0
    )
    command = [sys.executable, str(CODE / "train_SemiSAM_O1.py"), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True, env=environment
    ) as run:
        metrics = tmp_path / "run_MT_1label_1" / "unet_3D" / "metrics.jsonl"
        for _ in range(600):
            if run.poll() is not None or (metrics.is_file() and "loss/total" in metrics.read_text()):
                break
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGTERM)
        error = run.communicate(timeout=60)[1]
    assert run.returncode == 130, error
    assert (metrics.parent / "state.pth").is_file()


def test_two_processes_train_and_test_from_any_folder(dataset: Path, tmp_path: Path) -> None:
    def together(command: str, *flags: str) -> None:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
        done = subprocess.run(
            [*launch, str(CODE / command), *flags], cwd=tmp_path, capture_output=True, encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]

    together("train_SemiSAM_O1.py", *train_flags(dataset, tmp_path / "run", labeled_bs=2, batch_size=4))
    folder = tmp_path / "run_MT_1label_1" / "unet_3D"
    assert (folder / "log.txt").read_text().count("round 1 iteration 4/4") == 1

    def flags(out: str) -> list[str]:
        named = {"root_path": dataset, "exp": tmp_path / "run", "device": "cpu", "save_pred": tmp_path / out}
        return [part for key, value in named.items() for part in (f"--{key}", str(value))]

    assert run_command(test_baseline.main, flags("alone")) == 0
    alone = (folder / "test_metrics.csv").read_text()
    together("test_baseline.py", *flags("together"))
    assert (folder / "test_metrics.csv").read_text() == alone
    outputs = [{path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("alone", "together")]
    assert len(outputs[0]) == 6
    assert outputs[0] == outputs[1]


def test_when_one_process_is_killed_the_other_ends_and_says_so(dataset: Path, tmp_path: Path) -> None:
    flags = train_flags(
        dataset, tmp_path / "run", labeled_bs=2, batch_size=4, max_iterations=3000, val_interval=3000, log_images=0
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    metrics = tmp_path / "run_MT_1label_1" / "unet_3D" / "metrics.jsonl"
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(CODE / "train_SemiSAM_O1.py"), *flags],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for _ in range(900):
            if metrics.is_file() and "loss/total" in metrics.read_text():
                break
            time.sleep(0.1)
        ranks[1].kill()
        error = ranks[0].communicate(timeout=60)[1]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[0].returncode == 1
    assert "another process of this run has ended" in error
    assert "the same command with --resume continues" in error


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
    assert arguments["augmentation"] == ["spatial", "intensity", "template", "local"]
    with h5py.File(folder / "pseudo_labels" / "round1_confidence.h5") as file:
        file_names = sorted(file)
        assert file_names == [f"train{i}" for i in range(1, 6)]
        assert all(values[()].min() >= 255 // 3 for values in file.values())
    records = json.loads((folder / "round_tracking.json").read_text())
    assert records[1]["kept"] == file_names, "a network of two iterations has not learned"
    assert 0.3 < records[0]["expected_dice"] == records[1]["expected_dice"] <= 1
    assert len(records[1]["reliability"]) == 2
    assert train(*command("parts", num_rounds=1)) == 0
    assert train(*command("parts", resume="on")) == 0, capsys.readouterr().err
    parts = tmp_path / "parts_MT_1label_1" / "unet_3D"
    ends = [torch.load(path / "round2_best.pth", weights_only=True) for path in (folder, parts)]
    assert same(*ends)
    assert not same(ends[0], weights(folder))
    tested = ["--root_path", str(dataset), "--exp", str(tmp_path / "whole"), "--stride_xy", "16", "--stride_z", "16"]
    assert run_command(test_baseline.main, tested) == 0, capsys.readouterr().err
