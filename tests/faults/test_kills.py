"""A killed run goes on to the same bits: the real command, SIGKILL, the moment named or drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from kill_runs import BACKBONES, STAGES, Campaign, differences, outcome

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

EARLY = ("propagation", "half an iteration", "a state half written", "between validation and state")


def test_eight_kills(tmp_path: Path) -> None:
    result = Campaign(tmp_path, seed=1).run(0, "dan", EARLY, random_kills=4, share=0.5)
    assert tuple(result["kills"][:4]) == EARLY, result
    assert len(result["kills"]) > 4, result  # on a machine that gets faster, a run may end before it is killed
    assert not result["different"]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_kill_at_every_stage_and_at_random(backbone: str, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, seed=2)
    named = campaign.run(0, backbone, list(STAGES), random_kills=0)
    assert named["kills"] == list(STAGES)
    assert not named["different"]
    assert not campaign.run(1, backbone, [], random_kills=4)["different"]


def test_the_comparison_sees_a_single_bit(tmp_path: Path) -> None:
    weights = {"w": torch.arange(6.0).reshape(2, 3)}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        torch.save(weights, tmp_path / name / "round1_best.pth")
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "round": 1, "train/iterations_per_second": 3}\n')
        (tmp_path / name / "round_tracking.json").write_text('[{"round": 0, "seconds": 1}]')
        weights["w"].view(torch.int32)[1, 2] ^= 1
    assert differences(outcome(tmp_path / "a"), outcome(tmp_path / "b")) == ["round1_best.pth: w"]
