"""The part of a volume that is compared with the template: its orientation, its box, and the working grid on it.

Lengths are millimeters, or voxels where the spacing is not known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch

from semisam_o1.data.sampling.fields import resize
from semisam_o1.features.builtin import cell_means

MAX_CELLS = 500_000  # of the box around the template's structures with their margin
MARGIN = 1.25  # around the structures, in mean radii; frame coordinates up to 1 are registered
COARSE_RADIUS = 9.0  # units; larger structures are registered at half the resolution
SLACK = 0.5  # additional margin of the other volumes, in mean radii

Length3 = tuple[float, float, float]


@dataclass(frozen=True)
class Pose:
    """Where the template's structures lie in a volume.

    Attributes:
        axes: axes of the volume in the order of the template's.
        flips: whether the volume runs against the template along each of them.
        origin: position of the structures' center along the reordered axes, from the first voxel's center.
        scale: size of the structures relative to the template's.
    """

    origin: Length3
    scale: float = 1.0
    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    @property
    def turned(self) -> bool:
        """Whether the volume's orientation differs from the template's."""
        return self.axes != (0, 1, 2) or any(self.flips)

    def __str__(self) -> str:
        """Which axes of the volume run along the template's, such as '+y −x +z'."""
        signs = ["−" if flip else "+" for flip in self.flips]
        return " ".join(sign + "xyz"[axis] for sign, axis in zip(signs, self.axes, strict=True))

    def reorient(self, image: np.ndarray) -> np.ndarray:
        """Return an image (..., W, H, D) in the template's orientation."""
        leading = image.ndim - 3
        image = image.transpose(*range(leading), *(leading + axis for axis in self.axes))
        return np.flip(image, [leading + i for i, flip in enumerate(self.flips) if flip])

    def restore(self, image: np.ndarray) -> np.ndarray:
        """Undo ``reorient``."""
        leading = image.ndim - 3
        image = np.flip(image, [leading + i for i, flip in enumerate(self.flips) if flip])
        return image.transpose(*range(leading), *(leading + self.axes.index(axis) for axis in range(3)))


@dataclass(frozen=True)
class Region:
    """A box around the structures of a volume.

    Attributes:
        pose: position and orientation of the structures.
        shape: (W, H, D) of the volume.
        start: first voxel of the box, in the reordered volume.
        size: voxels of the box.
        grid: cells of its working grid.
        step: length of a cell along each axis.
    """

    pose: Pose
    shape: tuple[int, int, int]
    start: tuple[int, int, int]
    size: tuple[int, int, int]
    grid: tuple[int, int, int]
    step: Length3

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the region as two arrays: of whole numbers, (6, 3), and of lengths, (3, 3)."""
        pose = self.pose
        numbers = [pose.axes, pose.flips, self.shape, self.start, self.size, self.grid]
        return {"region": np.array(numbers, np.int64), "pose": np.array([pose.origin, self.step, [pose.scale] * 3])}

    @classmethod
    def from_arrays(cls, numbers: np.ndarray, lengths: np.ndarray) -> Region:
        """Take back what ``to_arrays`` returned."""
        axes, flips, *box = map(tuple, numbers.tolist())
        origin, step, scale = map(tuple, lengths.tolist())
        return cls(Pose(origin, scale[0], axes, tuple(map(bool, flips))), *box, step)

    def reduce(self, image: np.ndarray) -> np.ndarray:
        """Return the cells' means (..., w, h, d) of an image (..., W, H, D)."""
        return cell_means(self._cut(image), self.grid)

    def resample(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Resample (C, W, H, D) of the volume to the working grid."""
        turned = probabilities.permute(0, *(1 + axis for axis in self.pose.axes))
        turned = turned.flip([1 + i for i, flip in enumerate(self.pose.flips) if flip])
        return resize(turned[(slice(None), *self._box)], self.grid)

    def paste(self, probabilities: np.ndarray, elsewhere: torch.Tensor | None = None) -> torch.Tensor:
        """Resample class probabilities (C, w, h, d) to the volume, (C, W, H, D) float32.

        Around the region are those of ``elsewhere``, of that shape; without it, background.
        """
        if elsewhere is None:
            whole = np.zeros((len(probabilities), *(self.shape[axis] for axis in self.pose.axes)), np.float32)
            whole[0] = 1
        else:
            whole = self.pose.reorient(elsewhere.cpu().numpy()).copy()
        whole[(slice(None), *self._box)] = resize(torch.from_numpy(probabilities), self.size).numpy()
        return torch.from_numpy(np.ascontiguousarray(self.pose.restore(whole)))

    def voxel_coords(self) -> np.ndarray:
        """Return the cells' centers in voxel coordinates of the volume, (3, w, h, d) float32."""
        coords = np.empty((3, *self.grid), np.float32)
        for i, axis in enumerate(self.pose.axes):
            position = self.start[i] + (np.arange(self.grid[i]) + 0.5) * (self.size[i] / self.grid[i]) - 0.5
            if self.pose.flips[i]:
                position = self.shape[axis] - 1 - position
            coords[axis] = position.reshape([-1 if j == i else 1 for j in range(3)])
        return coords

    def cell_coords(self) -> np.ndarray:
        """Return the voxel centers of a grid over the whole volume, in cells of the working grid.

        It is as fine as the working grid, or has about ``MAX_CELLS`` cells: small structures have fine grids.

        Returns:
            (3, w, h, d) float32, axes in the volume's order, coordinates in the region's.
        """
        axes = [np.empty(0)] * 3
        fine = [-(-self.shape[axis] * self.grid[i] // self.size[i]) for i, axis in enumerate(self.pose.axes)]
        share = min(1.0, (MAX_CELLS / math.prod(fine)) ** (1 / 3))
        for axis, cells in zip(self.pose.axes, fine, strict=True):
            n = max(1, round(share * cells))
            axes[axis] = (np.arange(n) + 0.5) * (self.shape[axis] / n) - 0.5
        voxels = np.stack(np.meshgrid(*axes, indexing="ij"))
        rows = []
        for i, axis in enumerate(self.pose.axes):
            position = self.shape[axis] - 1 - voxels[axis] if self.pose.flips[i] else voxels[axis]
            rows.append((position + 0.5 - self.start[i]) * (self.grid[i] / self.size[i]) - 0.5)
        return np.stack(rows).astype(np.float32)

    def centered(self) -> Region:
        """Return the same box, with the structures in the middle of the volume and as large as the template's."""
        spacings = [step * cells / size for step, cells, size in zip(self.step, self.grid, self.size, strict=True)]
        middle = [(self.shape[axis] - 1) / 2 * length for axis, length in zip(self.pose.axes, spacings, strict=True)]
        return replace(self, pose=replace(self.pose, origin=tuple(middle), scale=1.0))

    def frame_coords(self, radius: float) -> np.ndarray:
        """Return the cells' positions from the structures' center in the template's mean radii, (3, w, h, d)."""
        axes = []
        for i in range(3):
            spacing = self.step[i] * self.grid[i] / self.size[i]
            position = (self.start[i] - 0.5) * spacing + (np.arange(self.grid[i]) + 0.5) * self.step[i]
            axes.append((position - self.pose.origin[i]) / (self.pose.scale * radius))
        return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)

    @property
    def _box(self) -> tuple[slice, ...]:
        return tuple(slice(s, s + n) for s, n in zip(self.start, self.size, strict=True))

    def _cut(self, image: np.ndarray) -> np.ndarray:
        return self.pose.reorient(image)[(..., *self._box)]


@dataclass(frozen=True)
class Structures:
    """Extent of the labeled structures of a template, which the working grids of all volumes follow.

    Attributes:
        center: position of their center.
        lower: extent from the center towards the first voxel, and ``upper`` towards the last one.
        radius: mean over the classes of the root-mean-square distance per axis from the center of the class.
        unit: working resolution.
    """

    center: Length3
    lower: Length3
    upper: Length3
    radius: float
    unit: float

    @property
    def coarseness(self) -> int:
        """Factor by which registration reduces the resolution."""
        return 2 if self.radius > COARSE_RADIUS * self.unit else 1

    def extended(self, other: Structures, pose: Pose) -> Structures:
        """Return the extent that includes the structures of another volume, where these ones have a pose."""
        below = np.array(pose.origin) - np.array(other.center) + other.lower
        above = np.array(other.center) - np.array(pose.origin) + other.upper
        lower = np.maximum(self.lower, below / pose.scale)
        upper = np.maximum(self.upper, above / pose.scale)
        return replace(self, lower=tuple(lower.tolist()), upper=tuple(upper.tolist()))

    def region(self, shape: Sequence[int], spacing: Sequence[float], pose: Pose, slack: float = SLACK) -> Region:
        """Return the region of a volume of ``shape`` around a pose."""
        starts, sizes, cells, steps = [], [], [], []
        margin = (MARGIN + slack) * self.radius
        for i, axis in enumerate(pose.axes):
            low = (pose.origin[i] - pose.scale * (self.lower[i] + margin)) / spacing[axis]
            high = (pose.origin[i] + pose.scale * (self.upper[i] + margin)) / spacing[axis]
            start = min(max(int(np.floor(low)), 0), shape[axis] - 1)
            stop = max(min(int(np.ceil(high)) + 1, shape[axis]), start + 1)
            number = -(-(stop - start) // _factor(self.unit, spacing[axis]))
            starts.append(start)
            sizes.append(stop - start)
            cells.append(number)
            steps.append(spacing[axis] * (stop - start) / number)
        return Region(pose, tuple(shape), tuple(starts), tuple(sizes), tuple(cells), tuple(map(float, steps)))


def structures(label: np.ndarray, spacing: Sequence[float]) -> Structures:
    """Measure the structures of a label (W, H, D); all of a volume without any counts as structure."""
    scale = np.asarray(spacing, float)
    places = np.argwhere(label > 0) * scale
    if len(places):
        classes = [np.argwhere(label == index) * scale for index in np.unique(label[label > 0])]
        radius = float(np.mean([np.sqrt(points.var(axis=0).mean()) for points in classes]))
        lower, upper = places.min(axis=0), places.max(axis=0)
    else:
        lower, upper = np.zeros(3), (np.array(label.shape) - 1) * scale
        radius = float(upper.max()) / 4
    radius = max(radius, float(scale.min()))
    center = (lower + upper) / 2
    inside = np.minimum(np.array(label.shape) * scale, upper - lower + 2 * MARGIN * radius)
    smallest = float(scale.min())
    unit = next(
        smallest * factor
        for factor in count(1)
        if np.prod([-(-length // s // _factor(smallest * factor, s)) for length, s in zip(inside, scale, strict=True)])
        <= MAX_CELLS
    )
    extent = (center, center - lower, upper - center)
    return Structures(*(tuple(part.tolist()) for part in extent), radius, unit)


def _factor(unit: float, spacing: float) -> int:
    """Return how many voxels are averaged to a cell along an axis; slices thicker than a cell stay as they are."""
    return max(1, round(unit / spacing))
