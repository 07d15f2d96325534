"""Sampling, interpolation and exact distance maps on voxel grids, on the tensors' device without synchronization.

Voxel coordinates (3, w, h, d) are fractional indices into a volume; voxel centers have whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK = {"cpu": 2**20, "cuda": 2**26}  # elements computed at a time: the size of a CPU cache, or enough to fill a GPU


def indices(shape: Sequence[int], device: torch.device | str = "cpu", start: Sequence[float] = (0, 0, 0)) -> Tensor:
    """Return the voxel coordinates of every voxel of a grid whose first voxel is ``start``, (3, w, h, d) float32."""
    sides = zip(shape, start, strict=True)
    axes = [torch.arange(size, dtype=torch.float32, device=device) + first for size, first in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample(values: Tensor, voxel_coords: Tensor, mode: str = "bilinear", outside: str = "border") -> Tensor:
    """Return values (C, W, H, D) float32 at voxel coordinates (3, w, h, d), as (C, w, h, d).

    Args:
        mode: 'bilinear' (trilinear in 3-D) or 'nearest'.
        outside: 'border' (the value of the nearest voxel) or 'zeros'.
    """
    # By numbers of the host: a tensor made of them would be copied to a GPU, which the host waits for.
    axes = [2 * c / max(size - 1, 1) - 1 for c, size in zip(voxel_coords, values.shape[1:], strict=True)]
    return F.grid_sample(values[None], torch.stack(axes[::-1], dim=-1)[None], mode, outside, align_corners=True)[0]


def sample_array(values: np.ndarray, voxel_coords: np.ndarray) -> np.ndarray:
    """Apply ``sample`` to arrays."""
    return sample(torch.from_numpy(values), torch.from_numpy(voxel_coords)).numpy()


def resize(field: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample (C, w, h, d) to another grid over the same extent, trilinearly."""
    return interpolate(field[None], shape)[0]


def interpolate(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Interpolate (B, C, w, h, d) trilinearly to another grid over the same extent, corners not aligned.

    On a GPU as well, the gradient is the same every time.
    """
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


def rescale(voxel_coords: Tensor, shape: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Convert voxel coordinates (3, ...) in a volume of ``shape`` to those on a grid over the same extent."""
    axes = [(c + 0.5) * (n / size) - 0.5 for c, n, size in zip(voxel_coords, grid, shape, strict=True)]
    return torch.stack(axes)


def squared_distances(masks: Tensor) -> Tensor:
    """Return every voxel's squared Euclidean distance to its boolean mask (N, W, H, D), infinity where that is empty.

    The minimum of the squares is separable by axis, and every axis is searched in full. The squares are whole numbers
    that float32 represents exactly.
    Saito and Toriwaki, "New algorithms for Euclidean distance transformation", Pattern Recognition 1994.
    """
    distance = torch.where(masks, 0.0, torch.inf)
    for axis in (1, 2, 3):
        moved = distance.movedim(axis, -1)
        side = moved.shape[-1]
        lines = moved.reshape(-1, side)
        index = torch.arange(side, dtype=torch.float32, device=masks.device)
        steps = (index[:, None] - index).square()
        at_once = max(1, CHUNK.get(masks.device.type, CHUNK["cpu"]) // side**2)
        sums, nearest = lines.new_empty(min(at_once, len(lines)), side, side), torch.empty_like(lines)
        for part, out in zip(lines.split(at_once), nearest.split(at_once), strict=True):
            torch.amin(torch.add(part[:, None, :], steps, out=sums[: len(part)]), -1, out=out)
        distance = nearest.view(moved.shape).movedim(-1, axis)
    return distance


def signed_distances(labels: Tensor, num_classes: int) -> Tensor:
    """Return normalized signed distance maps (B, C − 1, W, H, D) float32 of labels (B, W, H, D) of C classes.

    The distance to the object over its maximum, minus the distance to the background over its maximum;
    0 on the object's inner boundary, negative inside. 0 everywhere if a class is absent, −1 if it is everywhere.
    Xue et al., "Shape-Aware Organ Segmentation by Predicting Signed Distance Maps", AAAI 2020.
    """
    classes = torch.arange(1, num_classes, device=labels.device).view(1, -1, 1, 1, 1)
    objects = (labels[:, None] == classes).flatten(0, 1)
    outside, inside = squared_distances(torch.cat([objects, ~objects])).chunk(2)
    shares = [(squared / squared.amax(dim=(1, 2, 3), keepdim=True)).sqrt() for squared in (outside, inside)]
    signed = shares[0] - shares[1].masked_fill(inside == 1, 0)  # 1: a neighbor across a face is background
    signed = torch.where(outside.isinf(), 0.0, torch.where(inside.isinf(), -1.0, signed))
    return signed.unflatten(0, (len(labels), num_classes - 1))
