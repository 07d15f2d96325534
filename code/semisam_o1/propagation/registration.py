"""Deformable registration of one volume to another, from the descriptions of their voxels.

A search over all displacements of a coarse grid, balanced with smoothness by coupled convex optimization (Siebert et
al., "ConvexAdam: Self-Configuring Dual-Optimisation-Based 3D Multitask Medical Image Registration", IEEE TMI 2024),
then smoothed Gauss-Newton steps on the grid itself (Lucas and Kanade, "An Iterative Image Registration Technique with
an Application to Stereo Vision", IJCAI 1981), with the mean slope of both volumes (Benhimane and Malis, "Real-Time
Image-Based Tracking of Planes Using Efficient Second-Order Minimization", IROS 2004). Nothing is random.

Lengths are in units that are the same for all volumes. The step of a grid is the distance of its voxels along each
axis: a displacement across thick slices counts by its length, and is smoothed only over voxels that are near enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semisam_o1.core.device import to_device
from semisam_o1.data.sampling.fields import indices, rescale, resize, sample

DILATION = 2  # units between the patches that self-similarity compares
SEARCH_CELL = 2  # units per cell of the search
SEARCH_STEPS = 4  # search range to each side, in half cells of that size
COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # weights of smoothness beside the cost, step by step
REFINEMENT_STEPS = 8
DAMPING = 0.1  # of a step, relative to the mean squared gradient
MAX_STEP = 1.0  # units

Step = tuple[float, float, float]
CUBE: Step = (1.0, 1.0, 1.0)


class Channels(NamedTuple):
    """Description (F, w, h, d) of the voxels of a volume, and the step of its grid in units."""

    values: Tensor
    step: Step = CUBE

    def on(self, device: torch.device) -> Channels:
        """Return the channels on a device."""
        return Channels(to_device(self.values, device), self.step)


class PairRegistration(NamedTuple):
    """Registration of one volume to another.

    Attributes:
        start: index of the start that was taken.
        displacement: from it, in working units, (3, w', h', d') float32 on the grid of registration.
        improvement: relative decrease of the mismatch; 0, as the displacement, if it did not decrease.
    """

    start: int
    displacement: np.ndarray
    improvement: float


def self_similarity(image: Tensor, step: Step = CUBE) -> Tensor:
    """Return the self-similarity context (12, W, H, D), between 0 and 1, of an image (W, H, D).

    Each channel is the mean squared difference around two of the six neighbors of a voxel that are not opposite each
    other, relative to the mean over the channels. It does not depend on contrast. Heinrich et al., "Towards Realtime
    Multimodal Fusion for Image-Guided Interventions Using Self-Similarities", MICCAI 2013.
    """
    sides = torch.eye(3, dtype=torch.int64)
    neighbors = torch.cat([sides, -sides])
    pairs = [(p, q) for i, p in enumerate(neighbors) for q in neighbors[:i] if int((p - q).square().sum()) == 2]
    dilation = [max(1, round(DILATION / length)) for length in step]
    padded = _replicate(image[None], dilation)[0]

    def shifted(offset: Tensor) -> Tensor:
        starts = [d * (1 + o) for d, o in zip(dilation, offset.tolist(), strict=True)]
        return padded[tuple(slice(start, start + n) for start, n in zip(starts, image.shape, strict=True))]

    differences = box_mean(torch.stack([(shifted(p) - shifted(q)).square() for p, q in pairs]), 3, step)
    differences = differences - differences.amin(0)
    variance = differences.mean(0)
    variance = variance.clamp(1e-3 * variance.mean(), 1e3 * variance.mean()).clamp_min(1e-12)
    return torch.exp(-differences / variance)


def register(fixed: Channels, moving: Channels, start: Tensor) -> Tensor:
    """Return the displacement (3, w, h, d) in units that leads from ``start`` to the matching voxels.

    Args:
        start: initial voxel coordinates in the moving volume of the fixed one's voxels, (3, w, h, d).
    """
    shape = fixed.values.shape[1:]
    shift = resize(search(fixed, sample(moving.values, start)), shape)
    # The search displaces the moving volume as resampled at ``start``: compose both.
    voxel_coords = sample(start, displaced(indices(shape, start.device), shift, fixed.step))
    refined = refine(fixed, moving, voxel_coords)
    return _in_units(refined - start, moving.step)


def displaced(voxel_coords: Tensor, displacement: Tensor, step: Step) -> Tensor:
    """Return voxel coordinates (3, w, h, d) moved by a displacement in units."""
    return torch.stack([c + d / s for c, d, s in zip(voxel_coords, displacement, step, strict=True)])


def _in_units(voxels: Tensor, step: Step) -> Tensor:
    return torch.stack([v * s for v, s in zip(voxels, step, strict=True)])


def local_mismatch(fixed: Channels, moving: Channels, cell_coords: Tensor, grid: Sequence[int]) -> Tensor:
    """Return the mean squared difference of two volumes around each voxel of the fixed one, (1, w, h, d).

    Args:
        cell_coords: coordinates in the moving volume of a grid over the fixed one, (3, ...), in cells of ``grid``.
    """
    reduced = rescale(resize(cell_coords, fixed.values.shape[1:]), grid, moving.values.shape[1:])
    moved = sample(moving.values, to_device(reduced, fixed.values.device))
    return box_mean((fixed.values - moved).square().mean(0, keepdim=True), 3, fixed.step)


def search(fixed: Channels, moved: Tensor) -> Tensor:
    """Return the best smooth displacement in units on a coarse grid, (3, w', h', d').

    Args:
        moved: the moving volume resampled on the fixed one's grid, (F, w, h, d).
    """
    shape = fixed.values.shape[1:]
    voxels = [max(1, round(SEARCH_CELL / length)) for length in fixed.step]  # of a cell
    grid = [max(1, round(n / v)) for n, v in zip(shape, voxels, strict=True)]
    size = tuple(length * n / g for length, n, g in zip(fixed.step, shape, grid, strict=True))
    cells = F.adaptive_avg_pool3d(fixed.values[None], grid)[0]
    # At twice the density, for displacements by half cells; index 2i is the mean of cell i.
    halves = F.adaptive_avg_pool3d(box_mean(moved, 3, fixed.step)[None], [2 * n for n in grid])
    halves = F.avg_pool3d(F.pad(halves, [0, 1] * 3, mode="replicate"), 2, stride=1)[0]
    reach = tuple(max(1, round(SEARCH_STEPS * SEARCH_CELL / length)) for length in size)
    padded = _replicate(halves, reach)
    offsets, candidates = _search_offsets(reach, size, fixed.values.device)

    def cost_of(offset: Sequence[int]) -> Tensor:
        window = (slice(None), *(slice(o, o + 2 * n, 2) for o, n in zip(offset, grid, strict=True)))
        return (cells - padded[window]).square().mean(0).flatten()

    cost = torch.stack([cost_of(offset) for offset in offsets])
    cost /= cost.mean().clamp_min(1e-12)
    relative = tuple(length / SEARCH_CELL for length in size)
    shift = box_mean(candidates[:, cost.argmin(0)].reshape(3, *grid), 3, relative)
    for coupling in COUPLING:
        distance = sum((c[:, None] - s.reshape(1, -1)).square() for c, s in zip(candidates, shift, strict=True))
        balanced = cost + coupling / SEARCH_CELL**2 * distance
        shift = box_mean(candidates[:, balanced.argmin(0)].reshape(3, *grid), 3, relative)
    return shift


@lru_cache(maxsize=64)
def _search_offsets(reach: tuple[int, ...], size: Step, device: torch.device) -> tuple[list[list[int]], Tensor]:
    """Return the displacements that are searched, as indices from 0 and in units, (3, candidates).

    Args:
        reach: half cells to each side.
        size: units per cell.
    """
    offsets = torch.cartesian_prod(*[torch.arange(2 * n + 1) for n in reach])
    candidates = (offsets - torch.tensor(reach)) / 2 * torch.tensor(size)
    # The smallest displacement first: it wins a tie.
    order = candidates.square().sum(1).argsort(stable=True)
    return offsets[order].tolist(), candidates[order].T.contiguous().to(device)


def refine(fixed: Channels, moving: Channels, start: Tensor) -> Tensor:
    """Refine voxel coordinates (3, w, h, d) in the moving volume, by Gauss-Newton steps whose field is smoothed."""
    step = fixed.step

    def smooth(field: Tensor) -> Tensor:
        return box_mean(field, 3, step)

    pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    displacement = torch.zeros_like(start)
    for _ in range(REFINEMENT_STEPS):
        moved = sample(moving.values, displaced(start, displacement, moving.step))
        mean = (fixed.values + moved) / 2
        slopes = [_slope(mean, axis) / length for axis, length in enumerate(step, start=1)]
        products = smooth(torch.stack([(slopes[i] * slopes[j]).sum(0) for i, j in pairs]))
        damping = DAMPING * (products[0] + products[3] + products[5]).mean() / 3
        inverse = _inverse(products, damping.clamp_min(1e-12))
        difference = fixed.values - moved
        descent = smooth(torch.stack([(slope * difference).sum(0) for slope in slopes]))
        update = torch.stack([sum(a * b for a, b in zip(row, descent, strict=True)) for row in inverse])
        displacement = smooth(displacement + update.clamp(-MAX_STEP, MAX_STEP))
    return displaced(start, displacement, moving.step)


def _slope(field: Tensor, axis: int) -> Tensor:
    """Return the central differences of (F, w, h, d) along an axis, one-sided at the border."""
    size = field.shape[axis]
    if size == 1:
        return torch.zeros_like(field)
    index = torch.arange(size, device=field.device)
    upper, lower = (index + 1).clamp_max(size - 1), (index - 1).clamp_min(0)
    distance = (upper - lower).view([-1 if a == axis else 1 for a in range(4)])
    return (field.index_select(axis, upper) - field.index_select(axis, lower)) / distance


def _inverse(products: Tensor, damping: Tensor) -> list[list[Tensor]]:
    """Return the inverses of symmetric matrices (xx, xy, xz, yy, yz, zz), their diagonals raised by ``damping``."""
    xx, xy, xz, yy, yz, zz = products
    xx, yy, zz = xx + damping, yy + damping, zz + damping
    top = (yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy)
    determinant = xx * top[0] + xy * top[1] + xz * top[2]
    middle = (top[1], xx * zz - xz * xz, xy * xz - xx * yz)
    bottom = (top[2], middle[2], xx * yy - xy * xy)
    return [[entry / determinant for entry in row] for row in (top, middle, bottom)]


def box_mean(field: Tensor, side: int = 3, step: Step = CUBE) -> Tensor:
    """Average (C, w, h, d) over a box of ``side`` units around each voxel, with the border replicated.

    Along an axis, it has the odd number of voxels that is nearest to that length.
    """
    sides = [2 * round((side / length - 1) / 2) + 1 for length in step]
    sides = [max(1, n) for n in sides]
    return F.avg_pool3d(_replicate(field, [n // 2 for n in sides])[None], sides, stride=1)[0]


def _replicate(field: Tensor, margins: Sequence[int]) -> Tensor:
    return F.pad(field[None], [m for margin in reversed(margins) for m in (margin, margin)], mode="replicate")[0]


def mean_by_mismatch(
    estimates: Sequence[Tensor], mismatches: Iterable[Tensor], selectivity: float, last: float = 1
) -> np.ndarray:
    """Return the mean of estimates (C, w, h, d), by weights that fall with their relative mismatches (1, w', h', d').

    Args:
        last: factor on the weight of the last one.
    """
    distance = torch.stack(list(mismatches))
    logits = -selectivity * distance / distance.mean().clamp_min(1e-12)
    logits[-1] += math.log(last)
    weights, grid = torch.softmax(logits, dim=0), estimates[0].shape[1:]
    return sum(resize(w, grid).cpu() * part for w, part in zip(weights, estimates, strict=True)).numpy()
