"""Bad input ends with exit code 2 and one clear sentence, before anything is computed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import test_baseline
import train_SemiSAM_O1
from semisam_o1.core.errors import run_command
from tiny_cohort import train_flags, write_cohort

CODE = Path(__file__).resolve().parents[2] / "code"


def relabel(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with h5py.File(path, "r+") as file:
        label = change(file["label"][()])
        del file["label"]
        file["label"] = label


def rename_key(root: Path) -> None:
    with h5py.File(root / "data" / "train3.h5", "r+") as file:
        file.move("image", "volume")


def spoil_image(root: Path) -> None:
    with h5py.File(root / "data" / "val0.h5", "r+") as file:
        file["image"][2, 3, 4] = np.nan


BROKEN_DATASETS = {
    "missing list": (lambda root: (root / "train.txt").unlink(), "train.txt is missing"),
    "empty list": (lambda root: (root / "train.txt").write_text("\n"), "train.txt names no volume"),
    "missing file": (lambda root: (root / "data" / "train2.h5").unlink(), "train2.h5 is missing"),
    "not HDF5": (lambda root: (root / "data" / "train2.h5").write_text("scan"), "train2.h5 cannot be read as HDF5"),
    "missing key": (rename_key, "train3.h5 holds no 'image' (it holds label, volume)"),
    "NaN": (spoil_image, "val0.h5: the image holds 1 values that are NaN or infinite"),
    "empty template": (
        lambda root: relabel(root / "data" / "train0.h5", np.zeros_like),
        "train0.h5: the template's label shows no foreground",
    ),
    "template lacks a class": (
        lambda root: relabel(root / "data" / "train0.h5", lambda label: label.clip(0, 1)),
        "nothing of class 2",
    ),
    "label beyond num_classes": (
        lambda root: relabel(root / "data" / "val0.h5", lambda label: label * 2),
        "val0.h5: the label holds the value 4, 3 classes allow 0 to 2",
    ),
    "label of another shape": (
        lambda root: relabel(root / "data" / "train1.h5", lambda label: label[1:]),
        "train1.h5: image has shape (27, 20, 17) and label (26, 20, 17)",
    ),
    "fractional label": (
        lambda root: relabel(root / "data" / "train1.h5", lambda label: label * 0.5),
        "train1.h5: label values must be whole numbers",
    ),
    "name in two lists": (lambda root: (root / "val.txt").write_text("train1\n"), "which train.txt trains on"),
    "name outside": (lambda root: (root / "val.txt").write_text("../val0\n"), "must be the plain name"),
    "nothing unlabeled": (lambda root: (root / "train.txt").write_text("train0\n"), "no unlabeled volume is left"),
}


@pytest.mark.parametrize("case", BROKEN_DATASETS)
def test_broken_dataset(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, message = BROKEN_DATASETS[case]
    root = write_cohort(tmp_path / "data")
    spoil(root)
    assert run_command(train_SemiSAM_O1.main, train_flags(root, tmp_path / "run"), train_SemiSAM_O1.HINTS) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.endswith(f"\n{train_SemiSAM_O1.HINTS.dataset}\n"), "the flags that say how a dataset is read"
    assert "Traceback" not in error
    assert not list(tmp_path.glob("run*")), "nothing may be written before the input is known to be good"
    assert not (root / "features").exists()


def test_all_faults_are_listed_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cohort(tmp_path / "data")
    for case in ("missing file", "NaN", "empty template"):
        BROKEN_DATASETS[case][0](root)
    assert run_command(train_SemiSAM_O1.main, train_flags(root, tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert "3 faults" in error
    assert all(BROKEN_DATASETS[case][1] in error for case in ("missing file", "NaN", "empty template"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": "32 20 16"}, "divisible by 16 on every axis and 32 or more on one, it is 32 20 16"),
        ({"patch_size": "16 16 16"}, "32 or more on one, it is 16 16 16"),
        ({"patch_size": "32 36 6", "network_levels": "auto"}, "divisible by 8 8 2 and 16 or more on one, it is 32 36"),
        ({"network_levels": "331/221"}, "--network_levels: '331/221' is neither isotropic nor"),
        ({"backbone": "dan", "patch_size": "32 32 6", "network_levels": "auto"}, "--backbone dan needs 16 voxels"),
        ({"propagation": "prototype", "features": "sam", "sam_ckpt": "nowhere.pth"}, "nowhere.pth is missing;"),
        ({"batch_size": 1}, "leaves no unlabeled item"),
        ({"num_classes": 1}, "--num_classes must lie between 2 and 255"),
        ({"binary_label": "on"}, "--binary_label leaves 2 classes"),
        ({"max_iterations": 0}, "--max_iterations must be at least 1"),
        ({"base_lr": "nan"}, "--base_lr must be positive"),
        ({"uncertainty_quantile": 1.5}, "--uncertainty_quantile must lie between 0 and 1"),
        ({"resume": "on", "overwrite": "on"}, "use one of the two"),
        ({"model": "unet_3D_sdf"}, "is trained by --backbone dtc"),
        ({"root_path": "nowhere"}, "train.txt is missing"),
    ],
)  # fmt: skip
def test_unusable_arguments(
    changes: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = train_flags(write_cohort(tmp_path / "data"), tmp_path / "run", **changes)
    assert run_command(train_SemiSAM_O1.main, flags) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("run*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens where there is no GPU")
def test_cuda_asked_for_in_vain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = train_flags(write_cohort(tmp_path / "data"), tmp_path / "run", device="cuda")
    assert run_command(train_SemiSAM_O1.main, flags) == 2
    assert "finds no CUDA device" in capsys.readouterr().err


def test_checkpoint_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sam.pth"
    torch.save({"model_state_dict": {"image_encoder.pos_embed": torch.zeros(2)}}, path)
    root = write_cohort(tmp_path / "data")
    flags = train_flags(root, tmp_path / "run", propagation="prototype", features="sam", sam_ckpt=path)
    assert run_command(train_SemiSAM_O1.main, flags) == 2
    error = capsys.readouterr().err
    assert "sam.pth is no SAM-Med3D" in error
    assert "pos_embed is (2,)" in error
    assert not list(tmp_path.glob("run*"))


@pytest.mark.parametrize("command", ["train_SemiSAM_O1.py", "test_baseline.py", "prepare_data.py", "make_demo.py"])
def test_commands_start_from_any_folder(command: str, tmp_path: Path) -> None:
    def start(flag: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, CODE / command, flag], cwd=tmp_path, capture_output=True, encoding="utf-8"
        )

    assert start("--help").returncode == 0
    assert start("--no_such_flag").returncode == 2


def run_test(root: Path, exp: Path, *flags: str) -> int:
    arguments = ["--root_path", str(root), "--exp", str(exp), "--num_classes", "3", "--patch_size", "32", "16", "16"]
    return run_command(test_baseline.main, [*arguments, "--device", "cpu", *flags])


def test_missing_checkpoint_lists_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cohort(tmp_path / "data")
    assert run_test(root, tmp_path / "models" / "mine") == 2
    assert "no trained model" in capsys.readouterr().err
    folder = tmp_path / "models" / "mine_MT_1label_1" / "unet_3D"
    folder.mkdir(parents=True)
    (folder / "round1_best.pth").touch()
    assert run_test(root, tmp_path / "models" / "mine") == 2
    assert "unet_3D/round1_best.pth" in capsys.readouterr().err.replace("\\", "/")
    assert run_test(root, tmp_path / "models" / "mine", "--ckpt", "round1_best.pth") == 2
    assert "round1_best.pth cannot be read as a checkpoint" in capsys.readouterr().err


def test_checkpoint_of_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cohort(tmp_path / "data")
    folder = tmp_path / "mine" / "unet_3D"
    folder.mkdir(parents=True)
    torch.save({"conv1.weight": torch.zeros(3)}, folder / "unet_3D_best_model.pth")
    assert run_test(root, tmp_path / "mine") == 2
    error = capsys.readouterr().err
    assert "does not fit the network" in error
    assert "check --model and --num_classes" in error


def test_test_volumes_need_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from semisam_o1.networks import build_network

    root = write_cohort(tmp_path / "data")
    folder = tmp_path / "mine" / "unet_3D"
    folder.mkdir(parents=True)
    torch.save(build_network("unet_3D", 3).state_dict(), folder / "unet_3D_best_model.pth")
    with h5py.File(root / "data" / "test1.h5", "r+") as file:
        del file["label"]
    assert run_test(root, tmp_path / "mine") == 2
    assert "test1.h5: the volume needs a label here" in capsys.readouterr().err
    assert run_test(root, tmp_path / "mine", "--stride_xy", "0") == 2
    assert "--stride_xy must be at least 1" in capsys.readouterr().err
