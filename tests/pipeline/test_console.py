"""What a run says at its start and end, and how progress shows in a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from semisam_o1.core import terminal
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.pipeline import console
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.start import PreflightResult
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord


def test_opening_gives_the_reason_of_every_choice(tmp_path: Path) -> None:
    config = TrainConfig(root_path=tmp_path, propagation="atlas", sam_ckpt=tmp_path / "none.pth")
    cohort = Cohort(("a",), ("b", "c"), ("d",), {})
    checked = PreflightResult(RunFolder(tmp_path, "unet_3D"), torch.device("cpu"), "fp32", cohort, {}, None)
    text = console.opening(config, checked, "ram", "0.10 GiB fit in RAM")
    for part in (
        "1 labeled, 2 unlabeled, 1 validation volumes", "uamt with unet_3D, 3 rounds of 15000", "atlas propagation",
        f"builtin features (there is no {tmp_path / 'none.pth'})", "cpu (auto: ",
        "fp32 (auto:", "kept in RAM (auto: 0.10 GiB fit in RAM)", f"run folder: {tmp_path}",
    ):  # fmt: skip
        assert part in text
    config = TrainConfig(root_path=tmp_path, device="cpu", precision="fp32", cache="none")
    text = console.opening(config, checked, "none", "as requested")
    assert text.count("as requested") == 3
    assert "auto" not in text


def test_closing_table_marks_the_round_that_was_kept() -> None:
    records = [
        RoundRecord(0, 0.1, None, (), 0.0, 0.5, (0.5,), 4.0),
        RoundRecord(1, 0.1, 0.2, ("a",), 0.5, 0.6, (0.6,), 4000.0, 0.7, 40),
        RoundRecord(2, 0.1, 0.1, (), 0.0, None, None, 20000.0, 0.65, 60),
    ]
    lines = console.closing(records).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["1", "*", "0.6000", "0.2000", "1", "0.7000", "40", "67", "min"]
    assert lines[3].split() == ["2", "–", "0.1000", "0", "0.6500", "60", "5", "h", "33", "min"]
    assert "*" not in lines[1] + lines[3]


def test_next_names_the_test_only_where_scans_are_left_for_it(tmp_path: Path) -> None:
    config = TrainConfig(root_path=tmp_path, exp="mine")
    assert "test_baseline.py" not in console.next_commands(config)
    (tmp_path / "test.txt").write_text("a\n")
    assert f"test_baseline.py --root_path {tmp_path} --exp mine" in console.next_commands(config)


def test_one_round_is_no_rounds(tmp_path: Path) -> None:
    config = TrainConfig(root_path=tmp_path, num_rounds=1, max_iterations=1)
    cohort = Cohort(("a",), ("b",), (), {})
    checked = PreflightResult(RunFolder(tmp_path, "unet_3D"), torch.device("cpu"), "fp32", cohort, {}, None)
    assert "1 round of 1 iteration, " in console.opening(config, checked, "ram", "it fits")


def test_progress_in_a_file_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    assert not sys.stderr.isatty()
    assert list(terminal.progress(range(8), "reading")) == list(range(8))
    assert capsys.readouterr().err.splitlines() == [
        "reading: 2/8 volumes, 37.5 s/volume, 4 min left",
        "reading: 5/8 volumes, 30.0 s/volume, 2 min left",
    ]


def test_durations() -> None:
    assert [terminal.duration(s) for s in (3.2, 89, 100, 5300, 7260)] == ["3 s", "89 s", "2 min", "88 min", "2 h 1 min"]
