"""Voxel grids of a scan: reoriented, resampled, cropped, and the arrays on them brought from one to another.

Two grids of one scan differ by a permutation and flips of their axes, by spacing and by extent, never by a
rotation. So one function, ``resample``, does every change of grid axis by axis, and its inverse as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from scipy import sparse

from semisam_o1.data.dataset.volumes import Geometry, Grid

LETTERS = "LRPASI"  # the two directions of each of ITK's axes (LPS), positive first
ROUNDING = 1e-4  # voxels; smaller differences between grids are rounding errors


def orientation_of(geometry: Geometry) -> str:
    """Return three letters: the side of the patient that each voxel axis points towards, such as 'RAS'."""
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(geometry.direction)


def is_orientation(text: str) -> bool:
    """Return whether three letters name each axis of the patient once."""
    return sorted(LETTERS.find(letter) // 2 for letter in text) == [0, 1, 2]


def reoriented(grid: Grid, orientation: str) -> Grid:
    """Return the grid over the same voxels whose axes point towards the letters of ``orientation``."""
    now, geometry = orientation_of(grid.geometry), grid.geometry
    worlds = [LETTERS.index(letter) // 2 for letter in now]
    axes = [worlds.index(LETTERS.index(letter) // 2) for letter in orientation]
    direction, origin = np.reshape(geometry.direction, (3, 3))[:, axes], np.array(geometry.origin)
    spacing, size = np.array(geometry.spacing)[axes], np.array(grid.size)[axes]
    for i, axis in enumerate(axes):
        if now[axis] != orientation[i]:
            origin = origin + direction[:, i] * spacing[i] * (size[i] - 1)
            direction[:, i] *= -1
    position = (tuple(values.ravel().tolist()) for values in (spacing, origin, direction))
    return Grid(tuple(size.tolist()), Geometry(*position, geometry.known))


def resampled(grid: Grid, spacing: Sequence[float]) -> Grid:
    """Return the grid of another spacing (mm) with the same axes and the same center."""
    old, size = np.array(grid.geometry.spacing), np.array(grid.size)
    new = np.array(spacing, float)
    new_size = np.maximum(np.floor(size * old / new + 0.5), 1).astype(int)
    return _moved(grid, (size - 1) / 2 - (new_size - 1) / 2 * new / old, new_size, new)


def cropped(grid: Grid, box: Sequence[slice]) -> Grid:
    """Return the part of a grid that ``box`` (three slices with start and stop) leaves."""
    starts, stops = np.array([(part.start, part.stop) for part in box]).T
    return _moved(grid, starts, stops - starts, np.array(grid.geometry.spacing, float))


def _moved(grid: Grid, first: np.ndarray, size: np.ndarray, spacing: np.ndarray) -> Grid:
    """Return a grid with the same axes whose first voxel lies at ``first``, in voxels of the given grid."""
    direction = np.reshape(grid.geometry.direction, (3, 3))
    origin = np.array(grid.geometry.origin) + direction @ (first * np.array(grid.geometry.spacing))
    geometry = replace(grid.geometry, spacing=tuple(spacing.tolist()), origin=tuple(origin.tolist()))
    return Grid(tuple(size.tolist()), geometry)


@dataclass(frozen=True)
class _Axis:
    """How the voxels of one target axis come from the source's axis of the same direction."""

    source_axis: int
    weights: sparse.csr_array  # (target, source), of the source's voxels in each of the target's
    outside: np.ndarray  # (target,), whether a voxel lies outside of the source

    @property
    def copied(self) -> bool:
        """Whether every target voxel is one of the source."""
        return self.weights.nnz == len(self.outside)


def resample(array: np.ndarray, source: Grid, target: Grid, *, nearest: bool = False, outside: float = 0) -> np.ndarray:
    """Bring an array from one grid of a scan to another.

    Values are copied where the grids share voxels, else interpolated linearly, or averaged for a coarser target.

    Args:
        array: (..., W, H, D) on ``source``.
        nearest: take the nearest voxel instead, and keep the type.
        outside: the value of target voxels that lie outside of the source.

    Returns:
        (..., w, h, d) on ``target``: float32, or the array's own type where values were only copied.

    Raises:
        ValueError: if the grids are rotated against each other, or the array does not fit its grid.
    """
    if array.shape[-3:] != tuple(source.size):
        raise ValueError(f"an array of shape {array.shape} does not lie on a grid of {source.size}")
    axes, lead = _axes(source, target, nearest), array.ndim - 3
    result = array.transpose(*range(lead), *(lead + axis.source_axis for axis in axes))
    for number, axis in enumerate(axes, start=lead):
        if axis.copied:
            result = result.take(axis.weights.indices, axis=number)
        else:
            values = np.moveaxis(result.astype(np.float32, copy=False), number, 0)
            mixed = axis.weights @ values.reshape(len(values), -1)
            result = np.moveaxis(mixed.reshape(-1, *values.shape[1:]), 0, number)
    result = np.ascontiguousarray(result)
    for number, axis in enumerate(axes, start=lead):
        if axis.outside.any():
            result[(slice(None),) * number + (axis.outside,)] = outside
    return result


def resample_label(label: np.ndarray, source: Grid, target: Grid, *, nearest: bool = False) -> np.ndarray:
    """Bring a label map (W, H, D) from one grid of a scan to another; outside of the source is background.

    Args:
        nearest: take the nearest voxel's class; otherwise every class's mask is interpolated and the largest
            share wins, which keeps surfaces smooth. Ties go to the lower class.
    """
    if nearest or all(axis.copied for axis in _axes(source, target)):
        return resample(label, source, target, nearest=True)
    best, share = np.zeros(target.size, label.dtype), np.zeros(target.size, np.float32)
    for value in np.unique(label):  # one class at a time: a label map may hold many
        part = resample((label == value).astype(np.float32), source, target, outside=float(value == 0))
        larger = part > share
        best[larger], share[larger] = value, part[larger]
    return best


def _axes(source: Grid, target: Grid, nearest: bool = False) -> list[_Axis]:
    """Return the map of every target axis onto the source."""
    to_source = np.linalg.inv(source.affine) @ target.affine
    linear, offset = to_source[:3, :3], to_source[:3, 3]
    partner = np.abs(linear).argmax(axis=0)
    rest = linear.copy()
    rest[partner, range(3)] = 0
    if len(set(partner.tolist())) < 3 or (np.abs(rest) * np.array(target.size)).max() > 0.1:
        raise ValueError("the two grids are rotated against each other")
    axes = []
    for other, count, step in zip(partner, target.size, linear[partner, range(3)], strict=True):
        size, coords = source.size[other], offset[other] + step * np.arange(count)  # in voxels of the source
        coords = np.where(np.abs(coords - np.round(coords)) < ROUNDING, np.round(coords), coords)[:, None]
        outside = np.abs(coords - (size - 1) / 2) > size / 2 + ROUNDING
        coords = np.clip(np.floor(coords + 0.5) if nearest else coords, 0, size - 1)
        # A coarser target takes the mean of what it covers: no aliasing.
        reach = 1 if nearest or (abs(step) - 1) * count < ROUNDING else abs(step)
        weights = np.maximum(1 - np.abs(np.arange(size) - coords) / reach, 0)
        weights = sparse.csr_array(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)
        axes.append(_Axis(int(other), weights, outside[:, 0]))
    return axes
