"""Masks that were drawn on some slices only: found, and the slices between filled by shape-based interpolation.

After Raya and Udupa, "Shape-based interpolation of multidimensional objects", IEEE Transactions on Medical Imaging 9,
1990: between two drawn slices, the signed distances to the outline are interpolated instead of the mask.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

MIN_DRAWN = 3  # slices with foreground below which no step between them can be told


@dataclass(frozen=True)
class Drawn:
    """The slices of a mask that were drawn."""

    axis: int
    slices: tuple[int, ...]  # with foreground, rising
    step: int  # the usual distance between two of them


def drawn_slices(label: np.ndarray, told: bool = False) -> Drawn | None:
    """Return the slices on which a label map (W, H, D) was drawn, None where it was drawn on all of them.

    A mask was drawn on some slices if, along one axis, at least three slices hold foreground and no two of them are
    neighbors.

    Args:
        told: it is known that slices were left out; then it is enough that most of them are no neighbors.
    """
    for axis in (2, 1, 0):  # axial slices first
        filled = np.flatnonzero((label > 0).any(axis=tuple({0, 1, 2} - {axis})))
        steps = np.diff(filled)
        if len(filled) >= MIN_DRAWN and (np.median(steps) if told else steps.min()) >= 2:
            return Drawn(axis, tuple(filled.tolist()), int(np.median(steps)))
    return None


def fill_between(label: np.ndarray, drawn: Drawn, spacing: Sequence[float]) -> np.ndarray:
    """Return a label map (W, H, D) with the slices between drawn ones filled.

    Every class is interpolated by its signed distance, and the largest one above 0 wins. Where a class ends between
    two slices, or beyond the outermost ones, it shrinks to nothing half a step further on. Drawn slices that are more
    than two steps apart are not connected.

    Args:
        spacing: mm along x, y, z.
    """
    axis = drawn.axis
    slices = np.moveaxis(label, axis, 0)
    in_plane = [value for i, value in enumerate(spacing) if i != axis]
    result, strongest = slices.copy(), np.zeros(slices.shape, np.float32)
    for value in np.unique(label[label > 0]):
        for z, distance in _between(slices == value, drawn, in_plane):
            nearer = distance > strongest[z]
            strongest[z][nearer] = distance[nearer]
            result[z][nearer] = value
    return np.moveaxis(result, 0, axis)


def _between(mask: np.ndarray, drawn: Drawn, spacing: Sequence[float]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (slice, signed distance) of every slice that is to be filled with one class.

    Args:
        mask: (slices, rows, columns), bool.
        spacing: mm along rows and columns.
    """
    known = {z: _signed_distance(mask[z], spacing) for z in drawn.slices if mask[z].any()}
    for (z, distance), direction in itertools.product(known.items(), (-1, 1)):
        others = [other for other in drawn.slices if 0 < direction * (other - z) <= 2 * drawn.step]
        other = min(others, key=lambda other: abs(other - z), default=None)
        if other not in known:  # the class ends here
            end = (drawn.step if other is None else abs(other - z)) / 2
            for k in range(1, math.ceil(end)):
                if 0 <= z + direction * k < len(mask):
                    yield z + direction * k, distance - distance.max() * np.float32((k / end) ** 2)
        elif other > z:
            for between in range(z + 1, other):
                share = np.float32((between - z) / (other - z))
                yield between, (1 - share) * distance + share * known[other]


def _signed_distance(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return the distance of every pixel to the outline in mm, positive inside; half a pixel lies between the two."""
    inside = ndimage.distance_transform_edt(mask, spacing)
    outside = ndimage.distance_transform_edt(~mask, spacing)
    half = min(spacing) / 2
    return np.where(mask, inside - half, half - outside).astype(np.float32)
