"""Convolutions of very small volumes, kept out of bf16 on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def guard_small(convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ``convolve(x)``, in float32 where x (B, C, W, H, D) is tiny and on the CPU.

    oneDNN's bf16 weight gradient reads uninitialised memory where an axis has 1 or 2 voxels (seen with
    torch 2.13): the result differs from call to call and is NaN at times. Volumes this small cost nothing.
    """
    if x.device.type == "cpu" and min(x.shape[2:]) < 4:
        with torch.autocast("cpu", enabled=False):
            return convolve(x.float())
    return convolve(x)
