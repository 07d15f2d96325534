"""Structures that grow and shrink: a smooth zoom of their neighborhood, in which everything around gives way.

One label shows a structure in one state. A cavity that contracts inside a wall that thickens is no elastic deformation
of a few control points, and no zoom of a whole patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from semisam_o1.core.device import to_device

PROBABILITY = 0.5  # of an item
MAX_LOG_ZOOM = 0.7  # in the middle
RADIUS = (0.6, 1.4)  # standard deviation of the zoomed neighborhood, in radii of a ball with the structure's volume
AXIS_SHARE = (0.3, 1.0)  # of the zoom along each axis, so that structures change their shape, too
STEEPEST = math.exp(-0.5)  # largest value of x exp(−x²/2)


@dataclass(frozen=True)
class Structure:
    """A class in the label of a volume: its center and one of its voxels, (3,) in voxels, and the number of these."""

    center: np.ndarray
    voxel: np.ndarray
    voxels: int


@dataclass(frozen=True)
class LocalZoom:
    """A map of coordinates, away from a center or towards it, that fades out with the distance.

    It never folds. Where ``excess`` is e along all axes, the derivative along a ray from the center is smallest in the
    center, 1 + e, or at √3 radii, 1 − 2 e exp(−1.5); e lies between −0.5 and 1.
    """

    center: np.ndarray  # (3,) in voxels
    radius: np.ndarray  # (3,) in voxels, the same length in mm along every axis
    excess: np.ndarray  # (3,), of the distance to the center along each axis, relative to it

    def __call__(self, voxel_coords: Tensor) -> Tensor:
        """Return the voxel coordinates (3, w, h, d) to sample at in place of those given."""
        numbers = torch.from_numpy(np.stack([self.center, self.radius, self.excess]).astype(np.float32))
        center, radius, excess = to_device(numbers, voxel_coords.device).view(3, 3, 1, 1, 1)
        distance = voxel_coords - center
        weight = torch.exp(-(distance / radius).square().sum(0, keepdim=True) / 2)
        return voxel_coords + weight * excess * distance

    def seen_from(self, voxel: np.ndarray) -> LocalZoom:
        """Return the zoom in the coordinates of a box that begins at a voxel (3,)."""
        return replace(self, center=self.center - voxel)

    @property
    def reach(self) -> np.ndarray:
        """How far coordinates move at most, (3,) in voxels."""
        return np.abs(self.excess) * self.radius * STEEPEST


def draw_local_zoom(structure: Structure, spacing: Sequence[float], generator: np.random.Generator) -> LocalZoom | None:
    """Draw a zoom about a point between a structure's center and a voxel of it; None in half of the cases.

    Args:
        spacing: mm.
    """
    happens, between = generator.random(2)
    excess = math.exp(generator.uniform(-MAX_LOG_ZOOM, MAX_LOG_ZOOM)) - 1
    size, shares = generator.uniform(*RADIUS), generator.uniform(*AXIS_SHARE, 3)
    if happens >= PROBABILITY:
        return None
    center = structure.center + between * (structure.voxel - structure.center)
    ball = (3 * structure.voxels * math.prod(spacing) / (4 * math.pi)) ** (1 / 3)
    return LocalZoom(center, size * ball / np.array(spacing), excess * shares)
