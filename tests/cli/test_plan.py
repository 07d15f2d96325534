"""The real commands without a number: planned, trained, continued with more iterations, and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import report
import train_SemiSAM_O1
from semisam_o1.core.errors import run_command
from tiny_cohort import write_cohort


def train(*flags: str) -> int:
    return run_command(train_SemiSAM_O1.main, list(flags))


def test_a_run_is_planned_shown_and_goes_on_as_planned(
    tmp_path: Path, narrow_networks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_cohort(tmp_path / "data")
    run = ["--root_path", str(root), "--exp", str(tmp_path / "run"), "--num_classes", "3", "--recipe", "best"]
    run += ["--registration", "off", "--refinement", "knn", "--augmentation", "spatial"]  # takes seconds less
    hurried = ["--hours", "0.001", "--device", "cpu"]
    assert train(*run, *hurried, "--patch_size", "16", "32", "16", "--check_only") == 0
    said = capsys.readouterr().out
    assert ["--patch_size", "16", "32", "16", "as", "given"] in [line.split() for line in said.splitlines()]
    assert "predicted time: " in said and "checked; a few steps were timed, nothing was written" in said
    assert not [*tmp_path.glob("run*")]

    assert train(*run, *hurried) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "--max_iterations  20" in said and ", predicted: " in said
    folder = tmp_path / "run_MT_1label_1" / "unet_3D"
    arguments = json.loads((folder / "args.json").read_text())["arguments"]
    planned = {row["flag"]: row["value"] for row in json.loads((folder / "plan.json").read_text())["decisions"]}
    assert {flag: arguments[flag] for flag in planned} == planned
    assert (arguments["patch_size"], arguments["num_rounds"]) == ([28, 20, 16], 1)

    assert train(*run, "--device", "cpu", "--resume", "--max_iterations", "23") == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "round 1 was finished after iteration 20 and goes on from there" in said
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [step["iteration"] for step in steps if "validation/dice" in step][-1] == 23
    assert [step["step"] for step in steps if "pseudo_labels/uncertainty" in step] == [23]
    assert train(*run, "--device", "cpu", "--resume", "--max_iterations", "22") == 2
    assert "--max_iterations was 23 and is 22" in capsys.readouterr().err

    assert run_command(report.main, [str(folder)]) == 0
    assert "of a typical scan of" in (folder / "report.html").read_text()


def test_a_patch_that_memory_does_not_hold_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("semisam_o1.pipeline.planning.available_memory", lambda: 2**30)
    root = write_cohort(tmp_path / "data")
    flags = ["--root_path", str(root), "--exp", str(tmp_path / "run"), "--num_classes", "3", "--propagation", "atlas"]
    assert train(*flags, "--device", "cpu", "--check_only") == 2
    said = capsys.readouterr().err
    assert "a training step on patches of 128 128 128 needs about" in said and "--patch_size 32 16 16 fits" in said
