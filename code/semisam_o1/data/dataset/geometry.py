"""Pad, crop and paste back: how volumes of any size meet patches of one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Shape = Sequence[int]


def _centered_axis(size: int, patch: int) -> tuple[slice, slice]:
    """Return (where in the volume, where in the patch) an axis overlaps with its centered patch."""
    if size <= patch:
        front = (patch - size) // 2
        return slice(0, size), slice(front, front + size)
    start = (size - patch) // 2
    return slice(start, start + patch), slice(0, patch)


def centered_window(shape: Shape, patch_size: Shape) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of a volume and of its centered patch that show the same voxels."""
    pairs = [_centered_axis(size, patch) for size, patch in zip(shape, patch_size, strict=True)]
    return tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)


def to_patch(volume: np.ndarray, patch_size: Shape) -> np.ndarray:
    """Center a volume (W, H, D) in a patch: short axes padded with zeros, long ones cropped."""
    in_volume, in_patch = centered_window(volume.shape, patch_size)
    patch = np.zeros(tuple(patch_size), volume.dtype)
    patch[in_patch] = volume[in_volume]
    return patch


def from_patch(patch: np.ndarray, shape: Shape) -> np.ndarray:
    """Paste a centered patch back into a volume of ``shape``; outside the patch is 0."""
    in_volume, in_patch = centered_window(shape, patch.shape)
    volume = np.zeros(tuple(shape), patch.dtype)
    volume[in_volume] = patch[in_patch]
    return volume


def resize_nearest(array: np.ndarray, shape: Shape) -> np.ndarray:
    """Resample (W, H, D) to ``shape``: output index i shows input index floor(i · in / out)."""
    indices = [np.arange(out) * size // out for size, out in zip(array.shape, shape, strict=True)]
    return array[np.ix_(*indices)]


def centered_padding(shape: Shape, minimum: Shape) -> list[tuple[int, int]]:
    """Return (front, back) zeros per axis that bring ``shape`` up to ``minimum``, floor half in front."""
    padding = []
    for size, least in zip(shape, minimum, strict=True):
        missing = max(least - size, 0)
        padding.append((missing // 2, missing - missing // 2))
    return padding
