"""The exponential moving average that a teacher's weights are."""

from __future__ import annotations

import copy

import torch
from torch import nn


def make_teacher(student: nn.Module) -> nn.Module:
    """Return a copy of the student that no gradient reaches; dropout stays active."""
    return copy.deepcopy(student).requires_grad_(False).train()


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move every teacher parameter to ``decay · teacher + (1 − decay) · student``."""
    targets = list(teacher.parameters())
    torch._foreach_mul_(targets, decay)
    torch._foreach_add_(targets, list(student.parameters()), alpha=1 - decay)
