"""Voxel grids of a scan: reoriented, resampled, cropped, and the arrays on them brought from one to another.

Two grids of one scan differ by a permutation and flips of their axes, by spacing and by extent, never by a
rotation. So one function, ``resample``, does every change of grid axis by axis, and its inverse as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from semisam_o1.data.dataset.volumes import Geometry, Grid

LETTERS = "LRPASI"  # the two directions of each of ITK's axes (LPS), positive first
ROUNDING = 1e-4  # voxels; smaller differences between grids are rounding errors


def orientation_of(geometry: Geometry) -> str:
    """Return three letters: the side of the patient that each voxel axis points towards, such as 'RAS'."""
    direction = np.reshape(geometry.direction, (3, 3))
    letters, free = ["", "", ""], [0, 1, 2]
    # The clearest axes first, so that an oblique scan never gets the same letter twice.
    for axis in np.argsort(-np.abs(direction).max(axis=0), kind="stable"):
        world = max(free, key=lambda row: abs(direction[row, axis]))
        free.remove(world)
        letters[axis] = LETTERS[2 * world + int(direction[world, axis] < 0)]
    return "".join(letters)


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
    """Coordinates of the voxels of one target axis along the source's axis of the same direction."""

    source_axis: int
    voxel_coords: np.ndarray  # (n,), in voxels of the source
    step: float  # distance between two of them
    size: int  # number of voxels of the source

    @property
    def inside(self) -> np.ndarray:
        return (self.voxel_coords >= -0.5 - ROUNDING) & (self.voxel_coords <= self.size - 0.5 + ROUNDING)

    def taps(self, nearest: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the source indices (n, k) and weights (n, k) that make up each target voxel."""
        if nearest:
            index = np.clip(np.floor(self.voxel_coords + 0.5), 0, self.size - 1).astype(int)
            return index[:, None], np.ones((len(index), 1), np.float32)
        reach = max(self.step, 1.0)  # a coarser target takes the mean of what it covers: no aliasing
        coords = np.clip(self.voxel_coords, 0, self.size - 1)
        first = np.ceil(coords - reach).astype(int)
        index = first[:, None] + np.arange(int(np.ceil(2 * reach)) + 1)
        weights = np.maximum(1 - np.abs(index - coords[:, None]) / reach, 0)
        weights[(index < 0) | (index >= self.size)] = 0
        weights /= weights.sum(axis=1, keepdims=True)
        used = weights.any(axis=0)
        return np.clip(index, 0, self.size - 1)[:, used], weights[:, used].astype(np.float32)


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
    axes = _axes(source, target)
    lead = array.ndim - 3
    result = array.transpose(*range(lead), *(lead + axis.source_axis for axis in axes))
    for number, axis in enumerate(axes, start=lead):
        index, weights = axis.taps(nearest)
        if index.shape[1] == 1:
            result = result.take(index[:, 0], axis=number)
            continue
        source_values, shape = result.astype(np.float32, copy=False), [-1] + [1] * (array.ndim - 1 - number)
        result = source_values.take(index[:, 0], axis=number) * weights[:, 0].reshape(shape)
        for k in range(1, index.shape[1]):
            result += source_values.take(index[:, k], axis=number) * weights[:, k].reshape(shape)
    result = np.ascontiguousarray(result)
    for number, axis in enumerate(axes, start=lead):
        if not axis.inside.all():
            result[(slice(None),) * number + (~axis.inside,)] = outside
    return result


def resample_label(label: np.ndarray, source: Grid, target: Grid, *, nearest: bool = False) -> np.ndarray:
    """Bring a label map (W, H, D) from one grid of a scan to another; outside of the source is background.

    Args:
        nearest: take the nearest voxel's class; otherwise every class's mask is interpolated and the largest
            share wins, which keeps surfaces smooth. Ties go to the lower class.
    """
    if nearest or all(axis.taps(False)[0].shape[1] == 1 for axis in _axes(source, target)):
        return resample(label, source, target, nearest=True)
    best, share = np.zeros(target.size, label.dtype), np.zeros(target.size, np.float32)
    for value in np.unique(label):  # one class at a time: a label map may hold many
        part = resample((label == value).astype(np.float32), source, target, outside=float(value == 0))
        larger = part > share
        best[larger], share[larger] = value, part[larger]
    return best


def _axes(source: Grid, target: Grid) -> list[_Axis]:
    """Return the map of every target axis onto the source."""
    to_source = np.linalg.inv(_affine(source)) @ _affine(target)
    linear, offset = to_source[:3, :3], to_source[:3, 3]
    partner = np.abs(linear).argmax(axis=0)
    rest = linear.copy()
    rest[partner, range(3)] = 0
    if len(set(partner.tolist())) < 3 or (np.abs(rest) * np.array(target.size)).max() > 0.1:
        raise ValueError("the two grids are rotated against each other")
    axes = []
    for axis, other in enumerate(partner):
        step = float(abs(linear[other, axis]))
        step = 1.0 if abs(step - 1) * target.size[axis] < ROUNDING else step
        coords = offset[other] + linear[other, axis] * np.arange(target.size[axis])
        coords = np.where(np.abs(coords - np.round(coords)) < ROUNDING, np.round(coords), coords)
        axes.append(_Axis(int(other), coords, step, source.size[other]))
    return axes


def _affine(grid: Grid) -> np.ndarray:
    """Return the 4×4 matrix from voxel indices to ITK's coordinates in mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(grid.geometry.direction, (3, 3)) * grid.geometry.spacing
    affine[:3, 3] = grid.geometry.origin
    return affine
