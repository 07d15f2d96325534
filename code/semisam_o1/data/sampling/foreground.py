"""Patches around foreground: a class is drawn, then one of its voxels, and the patch is centered there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from semisam_o1.core.seeding import numpy_generator

MAX_VOXELS = 4096  # of a class that are kept per volume


class ForegroundVoxels:
    """The foreground of volumes by name, collected when it is first asked for.

    Args:
        label: name → label (W, H, D) uint8.
    """

    def __init__(self, label: Callable[[str], Tensor]):
        self._label = label
        self._by_name: dict[str, list[np.ndarray]] = {}

    def choose(self, name: str, choice: Sequence[float]) -> np.ndarray | None:
        """Return the coordinates (3,) of a foreground voxel; None if the volume has none.

        Args:
            choice: two uniform numbers in [0, 1). The first chooses a class, all of them equally often, so that small
                ones are seen, too; the second chooses one of its voxels.
        """
        if name not in self._by_name:
            self._by_name[name] = _voxels_per_class(self._label(name).cpu().numpy())
        classes = self._by_name[name]
        if not classes:
            return None
        voxels = classes[int(choice[0] * len(classes))]
        return voxels[int(choice[1] * len(voxels))]


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


def _voxels_per_class(label: np.ndarray) -> list[np.ndarray]:
    """Return the voxel coordinates (n, 3) of every foreground class that is present, or a random choice of them."""
    flat = label.ravel()
    foreground = np.flatnonzero(flat)
    values, found = flat[foreground], []
    for value in np.unique(values):
        chosen = foreground[values == value]
        if len(chosen) > MAX_VOXELS:  # at random: a regular choice would keep to some slices
            chosen = numpy_generator(len(chosen)).choice(chosen, MAX_VOXELS, replace=False)
        found.append(np.stack(np.unravel_index(chosen, label.shape), axis=1))
    return found
