"""Trilinear interpolation whose gradient is the same every time, on a GPU as well."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def interpolate(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Interpolate (B, C, w, h, d) trilinearly to another grid over the same extent, corners not aligned."""
    if x.device.type == "cuda":
        return _Interpolation.apply(x, tuple(shape))
    return F.interpolate(x, tuple(shape), mode="trilinear", align_corners=False)


class _Interpolation(torch.autograd.Function):
    """``F.interpolate``, with a gradient by products with small matrices, axis by axis.

    PyTorch's own gradient on a GPU adds 64 contributions per voxel atomically: in an order that changes from call to
    call, and in bf16 with a rounding after each.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, int, int]) -> Tensor:
        ctx.shape = x.shape[2:]
        return F.interpolate(x, shape, mode="trilinear", align_corners=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # Products along the axes of a contiguous array; in channels last, of the same memory with channels last.
        last = not gradient.is_contiguous() and gradient.is_contiguous(memory_format=torch.channels_last_3d)
        gradient = gradient.movedim(1, -1) if last else gradient.contiguous()
        for axis, side in enumerate(ctx.shape, start=1 if last else 2):
            matrix = interpolation_matrix(side, gradient.shape[axis], gradient.dtype, gradient.device)
            if axis == gradient.ndim - 1:
                gradient = gradient @ matrix
            else:
                rest = gradient.shape[axis + 1 :]
                gradient = (matrix.T @ gradient.flatten(axis + 1)).unflatten(-1, rest)
        return gradient.movedim(-1, 1) if last else gradient, None


@lru_cache(maxsize=64)
def interpolation_matrix(size: int, resized: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the matrix (resized, size) that interpolates one axis of ``size`` voxels linearly."""
    with torch.inference_mode(False), torch.no_grad():  # the cached matrix serves training, too
        index = torch.arange(resized, dtype=torch.float64, device=device)
        positions = ((index + 0.5) * (size / resized) - 0.5).clamp(0, size - 1)
        return (1 - (positions[:, None] - torch.arange(size, device=device)).abs()).clamp_min(0).to(dtype)
