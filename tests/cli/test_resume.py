"""A run that is stopped saves its state and goes on to the same end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
import torch

from real_training import CODE, same, train
from semisam_o1.training.trainer import RoundTrainer
from tiny_cohort import train_flags, write_cohort


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("tiny"))


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
