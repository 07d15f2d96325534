"""Voxel grids of scans; centered padding and cropping between volumes of any size and patches of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Shape = Sequence[int]


@dataclass(frozen=True)
class Geometry:
    """Position of a volume in the patient, in ITK's convention (LPS, axes x, y, z)."""

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)  # mm
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)  # mm
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)  # row-major 3×3
    known: bool = False  # whether the file states a spacing


@dataclass(frozen=True)
class Grid:
    """Number of voxels along x, y, z and their position."""

    size: tuple[int, int, int]
    geometry: Geometry

    @property
    def affine(self) -> np.ndarray:
        """The 4×4 matrix from voxel indices to ITK's coordinates in mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.geometry.direction, (3, 3)) * self.geometry.spacing
        affine[:3, 3] = self.geometry.origin
        return affine


def centered_window(shape: Shape, patch_size: Shape) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of a volume and of its centered patch that hold the same voxels."""
    in_volume, in_patch = [], []
    for size, patch in zip(shape, patch_size, strict=True):
        overlap, cropped, padded = min(size, patch), max(size - patch, 0) // 2, max(patch - size, 0) // 2
        in_volume.append(slice(cropped, cropped + overlap))
        in_patch.append(slice(padded, padded + overlap))
    return tuple(in_volume), tuple(in_patch)


def to_patch(volume: np.ndarray, patch_size: Shape) -> np.ndarray:
    """Center a volume (W, H, D) in a patch: short axes are padded with zeros, long ones cropped."""
    in_volume, in_patch = centered_window(volume.shape, patch_size)
    patch = np.zeros(tuple(patch_size), volume.dtype)
    patch[in_patch] = volume[in_volume]
    return patch


def from_patch(patch: np.ndarray, shape: Shape) -> np.ndarray:
    """Paste a centered patch back into a volume of ``shape``; 0 outside of the patch."""
    in_volume, in_patch = centered_window(shape, patch.shape)
    volume = np.zeros(tuple(shape), patch.dtype)
    volume[in_volume] = patch[in_patch]
    return volume


def resize_nearest(array: np.ndarray, shape: Shape) -> np.ndarray:
    """Resample (W, H, D) to ``shape``: output index i takes input index floor(i · in / out)."""
    indices = [np.arange(out) * size // out for size, out in zip(array.shape, shape, strict=True)]
    return array[np.ix_(*indices)]


def centered_padding(shape: Shape, minimum: Shape) -> list[tuple[int, int]]:
    """Return the padding (front, back) per axis from ``shape`` up to ``minimum``; the smaller half is in front."""
    missing = [max(least - size, 0) for size, least in zip(shape, minimum, strict=True)]
    return [(n // 2, n - n // 2) for n in missing]
