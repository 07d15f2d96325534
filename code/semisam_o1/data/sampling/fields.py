"""Values and places on grids of voxels, as tensors: sampling, resampling, indices.

*Places* (3, w, h, d) are indices into a volume, in voxels; they need not be whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def indices(shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return every voxel's own index, (3, w, h, d) float32."""
    axes = [torch.arange(size, dtype=torch.float32, device=device) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample(values: Tensor, places: Tensor, mode: str = "bilinear", outside: str = "border") -> Tensor:
    """Return values (C, W, H, D) float32 at places (3, w, h, d): (C, w, h, d).

    Args:
        mode: 'bilinear' (trilinear, in fact) or 'nearest'.
        outside: what lies outside: 'border', the nearest voxel's value, or 'zeros'.
    """
    last = torch.tensor([max(size - 1, 1) for size in values.shape[1:]], device=values.device).view(3, 1, 1, 1)
    grid = (2 * places / last - 1).flip(0).permute(1, 2, 3, 0)
    return F.grid_sample(values[None], grid[None], mode, outside, align_corners=True)[0]


def sample_array(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """``sample`` of arrays."""
    return sample(torch.from_numpy(values), torch.from_numpy(places)).numpy()


def resize(field: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample (C, w, h, d) to another grid over the same extent, trilinear."""
    return F.interpolate(field[None], tuple(shape), mode="trilinear", align_corners=False)[0]


def rescale(places: Tensor, shape: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Turn places (3, ...) in a volume of ``shape`` into places on a grid over the same extent."""
    axes = [(p + 0.5) * (n / size) - 0.5 for p, n, size in zip(places, grid, shape, strict=True)]
    return torch.stack(axes)
