"""Sampling and resampling on voxel grids, as tensors.

Voxel coordinates (3, w, h, d) are fractional indices into a volume; voxel centers have whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def indices(shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return the voxel coordinates of every voxel of a grid, (3, w, h, d) float32."""
    axes = [torch.arange(size, dtype=torch.float32, device=device) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample(values: Tensor, voxel_coords: Tensor, mode: str = "bilinear", outside: str = "border") -> Tensor:
    """Return values (C, W, H, D) float32 at voxel coordinates (3, w, h, d), as (C, w, h, d).

    Args:
        mode: 'bilinear' (trilinear in 3-D) or 'nearest'.
        outside: 'border' (the value of the nearest voxel) or 'zeros'.
    """
    last = torch.tensor([max(size - 1, 1) for size in values.shape[1:]], device=values.device).view(3, 1, 1, 1)
    grid = (2 * voxel_coords / last - 1).flip(0).permute(1, 2, 3, 0)
    return F.grid_sample(values[None], grid[None], mode, outside, align_corners=True)[0]


def sample_array(values: np.ndarray, voxel_coords: np.ndarray) -> np.ndarray:
    """Apply ``sample`` to arrays."""
    return sample(torch.from_numpy(values), torch.from_numpy(voxel_coords)).numpy()


def resize(field: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample (C, w, h, d) to another grid over the same extent, trilinearly."""
    return F.interpolate(field[None], tuple(shape), mode="trilinear", align_corners=False)[0]


def rescale(voxel_coords: Tensor, shape: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Convert voxel coordinates (3, ...) in a volume of ``shape`` to those on a grid over the same extent."""
    axes = [(c + 0.5) * (n / size) - 0.5 for c, n, size in zip(voxel_coords, grid, shape, strict=True)]
    return torch.stack(axes)
