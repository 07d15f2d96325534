"""Training by the real command, and its weights."""

from __future__ import annotations

from pathlib import Path

import torch

import train_SemiSAM_O1
from semisam_o1.core.errors import run_command

CODE = Path(__file__).resolve().parents[2] / "code"


def train(*flags: str) -> int:
    return run_command(train_SemiSAM_O1.main, list(flags))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "round1_best.pth", weights_only=True)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
