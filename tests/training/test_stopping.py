"""Signals and the time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train_SemiSAM_O1
from semisam_o1.core.errors import Interrupted, run_command
from semisam_o1.data.dataset.prediction import Prediction
from semisam_o1.data.preflight import check
from semisam_o1.features.builtin import BuiltinFeatures
from semisam_o1.pipeline import pseudo_labeling as labeling
from semisam_o1.pipeline import run as pipeline_run
from semisam_o1.propagation.cohort import CohortAtlas
from semisam_o1.training import stopping
from semisam_o1.training.stopping import SIGNALS, StopRequest
from semisam_o1.training.trainer import RoundTrainer
from tiny_cohort import train_flags, write_cohort

CODE = Path(__file__).resolve().parents[2] / "code"
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals to itself")


@posix
@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_remembered(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        list(stop.progress([0], "items"))
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(Interrupted, match=rf"{signal.Signals(number).name}.*--resume continues"):
            list(stop.progress([0], "items"))
    assert signal.getsignal(number) is before
    assert "a second signal stops at once" in capfd.readouterr().err


SECOND = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from semisam_o1.training.stopping import StopRequest
with StopRequest():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
"""


@posix
@pytest.mark.parametrize("under_torchrun", [False, True])
def test_a_second_signal_ends_at_once_unless_torchrun_repeats_the_first(under_torchrun: bool) -> None:
    environment = {**os.environ, **({"TORCHELASTIC_RUN_ID": "x"} if under_torchrun else {})}
    done = subprocess.run([sys.executable, "-c", SECOND, str(CODE)], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == ((0, "still here\n") if under_torchrun else (130, ""))


def test_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now)
    stop, unlimited = StopRequest(0.5), StopRequest()
    now += 1799
    assert not stop.requested
    now += 1
    assert stop.requested
    assert not unlimited.requested
    with pytest.raises(Interrupted, match=r"after --max_time 0\.5 hours"):
        list(stop.progress([0], "items"))


# Where the signal arrives: while checking, and in the middle of every stage.
STAGES = {
    "checking": (check, "_inspect"),
    "features": (BuiltinFeatures, "__call__"),
    "propagation": (CohortAtlas, "registered"),
    "training": (RoundTrainer, "train_step"),
    "validation": (pipeline_run, "dice_per_class"),
    "relabeling": (Prediction, "from_probabilities"),
    "refinement": (labeling, "refine"),
}


@posix
def test_a_signal_in_any_stage_loses_nothing(
    narrow_networks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_cohort(tmp_path / "data")
    settings = {"log_images": 0, "precision": "fp32", "num_rounds": 2}
    for stage, (owner, name) in STAGES.items():
        original, sent = getattr(owner, name), []

        def signalled(*arguments: object, original=original, sent=sent, **keywords: object) -> object:
            if not sent:
                sent.append(True)
                os.kill(os.getpid(), signal.SIGUSR1)
            return original(*arguments, **keywords)

        flags = [*train_flags(root, tmp_path / "cut", **settings), "--resume"]
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, signalled)
            assert run_command(train_SemiSAM_O1.main, flags) == 130, stage
        error = capsys.readouterr().err
        assert "stopped (SIGUSR1); " in error, stage
        assert "Traceback" not in error
    assert run_command(train_SemiSAM_O1.main, flags) == 0
    assert run_command(train_SemiSAM_O1.main, train_flags(root, tmp_path / "whole", **settings)) == 0
    first, second = (
        torch.load(tmp_path / f"{run}_MT_1label_1" / "unet_3D" / "round2_best.pth", weights_only=True)
        for run in ("cut", "whole")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
