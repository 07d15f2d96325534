"""Patches: boxes anywhere in a volume or around its foreground, zero outside of it, swapped and flipped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from semisam_o1.core.seeding import numpy_generator
from semisam_o1.data.sampling.local_zoom import Structure

MAX_VOXELS = 4096  # of a foreground class that are kept per volume
MARGIN = 3  # voxels of padding around a volume that is not larger than the patch


class Orientation(NamedTuple):
    """One of the eight symmetries of the plane of the first two axes: a swap of the axes, then flips."""

    swap: bool
    flip_first: bool
    flip_second: bool

    @property
    def flipped_axes(self) -> tuple[int, ...]:
        return tuple(axis for axis, flip in enumerate(self[1:]) if flip)


_ALL = tuple(Orientation(*bits) for bits in itertools.product((False, True), repeat=3))
ORIENTATIONS = {
    "all": _ALL,
    "rotations": tuple(o for o in _ALL if sum(o) % 2 == 0),
    "flips": tuple(o for o in _ALL if not o.swap),
    "none": _ALL[:1],
}


def patch_start(shape: Sequence[int], size: Sequence[int], position: Sequence[float]) -> tuple[int, ...]:
    """Return the first voxel of a patch, from uniform numbers in [0, 1); negative if it lies in the padding.

    A volume not larger than the patch is padded by half of the difference and by ``MARGIN``.
    """
    starts = []
    for length, patch, u in zip(shape, size, position, strict=True):
        padding = (patch - length) // 2 + MARGIN if length <= patch else 0
        starts.append(int(u * (length + 2 * padding - patch + 1)) - padding)
    return tuple(starts)


def crop(volume: Tensor, low: Sequence[float], high: Sequence[float]) -> tuple[Tensor, tuple[int, ...]]:
    """Return the box, a view, for interpolation of a volume (W, H, D) from ``low`` to ``high``, and its first voxel.

    It has two voxels per axis at least, if the volume has, also where the coordinates lie outside of the volume.
    """
    first = [min(max(math.floor(a) - 1, 0), max(n - 2, 0)) for a, n in zip(low, volume.shape, strict=True)]
    ends = [max(min(math.ceil(b) + 2, n), f + 2) for b, n, f in zip(high, volume.shape, first, strict=True)]
    return volume[tuple(slice(f, end) for f, end in zip(first, ends, strict=True))], tuple(first)


def write_patch(out: Tensor, volume: Tensor, start: Sequence[int], orientation: Orientation) -> None:
    """Write the oriented box at ``start`` of a volume (W, H, D) into ``out`` (w, h, d), zeros outside of the volume."""
    inside, within = [], []
    for first, side, length in zip(start, source_size(out.shape, orientation), volume.shape, strict=True):
        low, high = min(max(first, 0), length), max(min(first + side, length), 0)
        inside.append(slice(low, high))
        within.append(slice(low - first, high - first))
    crop = volume[tuple(inside)]
    if crop.numel() < out.numel():
        out.zero_()
    write = _write_by_view if out.device.type == "cpu" else _write_by_copies
    write(out, crop, within, orientation)


def _write_by_view(out: Tensor, crop: Tensor, within: list[slice], orientation: Orientation) -> None:
    box = np.flip(out.numpy(), orientation.flipped_axes)  # negative strides, which no tensor has, save a copy
    box = box.swapaxes(0, 1) if orientation.swap else box
    box[tuple(within)] = crop.numpy()


def _write_by_copies(out: Tensor, crop: Tensor, within: list[slice], orientation: Orientation) -> None:
    region = [within[1], within[0], within[2]] if orientation.swap else list(within)
    for axis in orientation.flipped_axes:
        side = out.shape[axis]
        region[axis] = slice(side - region[axis].stop, side - region[axis].start)
    out[tuple(region)] = orient(crop, orientation)


def source_size(patch_size: Sequence[int], orientation: Orientation) -> tuple[int, ...]:
    """Return the size of the box that has ``patch_size`` after it is oriented."""
    w, h, d = patch_size
    return (h, w, d) if orientation.swap else (w, h, d)


def orient(box: Tensor, orientation: Orientation) -> Tensor:
    """Swap and flip the first two axes of a box (W, H, D)."""
    box = box.transpose(0, 1) if orientation.swap else box
    return box.flip(orientation.flipped_axes) if orientation.flipped_axes else box


class ForegroundVoxels:
    """The foreground of volumes by name, collected when it is first asked for.

    Args:
        label: name → label (W, H, D) uint8.
    """

    def __init__(self, label: Callable[[str], Tensor]):
        self._label = label
        self._by_name: dict[str, list[_Voxels]] = {}

    def choose(self, name: str, choice: Sequence[float]) -> np.ndarray | None:
        """Return the coordinates (3,) of a foreground voxel; None if the volume has none.

        Args:
            choice: two uniform numbers in [0, 1). The first chooses a class, all of them equally often, so that small
                ones are seen, too; the second chooses one of its voxels.
        """
        structure = self.structure(name, choice)
        return structure and structure.voxel

    def structure(self, name: str, choice: Sequence[float]) -> Structure | None:
        """Return the class of a foreground voxel, chosen as ``choose`` does; None if the volume has no foreground."""
        if name not in self._by_name:
            self._by_name[name] = _voxels_per_class(self._label(name).cpu().numpy())
        classes = self._by_name[name]
        if not classes:
            return None
        chosen = classes[int(choice[0] * len(classes))]
        return Structure(chosen.center, chosen.coords[int(choice[1] * len(chosen.coords))], chosen.count)


def patch_around(
    voxel: np.ndarray, shape: Sequence[int], size: Sequence[int], anywhere: Sequence[int]
) -> tuple[int, ...]:
    """Return the first voxel of a patch around ``voxel``, as central as it can be without leaving the volume.

    Along axes on which the volume is not larger than the patch, it is that of the patch ``anywhere``.
    """
    starts = []
    for at, length, side, start in zip(voxel, shape, size, anywhere, strict=True):
        centered = min(max(round(float(at)) - side // 2, 0), length - side)
        starts.append(centered if length > side else start)
    return tuple(starts)


@dataclass(frozen=True)
class _Voxels:
    """Of one class: coordinates (n, 3) of its voxels or a random choice, their center (3,), and their number."""

    coords: np.ndarray
    center: np.ndarray
    count: int


def _voxels_per_class(label: np.ndarray) -> list[_Voxels]:
    """Return the voxels of every foreground class that is present."""
    flat = label.ravel()
    foreground = np.flatnonzero(flat)
    values, found = flat[foreground], []
    for value in np.unique(values):
        chosen = foreground[values == value]
        count = len(chosen)
        if count > MAX_VOXELS:  # at random: a regular choice would keep to some slices
            chosen = numpy_generator(count).choice(chosen, MAX_VOXELS, replace=False)
        coords = np.stack(np.unravel_index(chosen, label.shape), axis=1)
        found.append(_Voxels(coords, coords.mean(axis=0), count))
    return found
