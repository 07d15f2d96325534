"""Deformable registration of one volume to another, from the descriptions of their voxels.

After Siebert et al., "ConvexAdam: Self-Configuring Dual-Optimisation-Based 3D Multitask Medical Image
Registration", IEEE TMI 2024: a search over all displacements of a coarse grid, balanced with smoothness by coupled
convex optimization, then gradient descent on a finer grid. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from semisam_o1.data.sampling.fields import indices, resize, sample

DILATION = 2  # voxels between the patches that self-similarity compares
SEARCH_CELL = 2  # voxels per cell of the coarse search, times the sampling
SEARCH_STEPS = 4  # search range to each side in half cells
COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # weights of smoothness beside the cost, step by step
CONTROL_SPACING = 2  # voxels between control points of the descent
DESCENT_STEPS = 30
DESCENT_RATE = 0.3  # voxels
ROUGHNESS_WEIGHT = 0.1


def self_similarity(image: Tensor) -> Tensor:
    """Return the self-similarity context (12, W, H, D), between 0 and 1, of an image (W, H, D).

    Each channel is the mean squared difference around two of the six neighbors of a voxel that are not opposite each
    other, relative to the mean over the channels. It does not depend on contrast. Heinrich et al., "Towards Realtime
    Multimodal Fusion for Image-Guided Interventions Using Self-Similarities", MICCAI 2013.
    """
    sides = torch.eye(3, dtype=torch.int64)
    neighbors = torch.cat([sides, -sides])
    pairs = [(p, q) for i, p in enumerate(neighbors) for q in neighbors[:i] if int((p - q).square().sum()) == 2]
    padded = _replicate(image[None], DILATION)[0]

    def shifted(offset: Tensor) -> Tensor:
        starts = [DILATION * (1 + o) for o in offset.tolist()]
        return padded[tuple(slice(start, start + n) for start, n in zip(starts, image.shape, strict=True))]

    differences = box_mean(torch.stack([(shifted(p) - shifted(q)).square() for p, q in pairs]))
    differences = differences - differences.amin(0)
    variance = differences.mean(0)
    variance = variance.clamp(1e-3 * variance.mean(), 1e3 * variance.mean()).clamp_min(1e-12)
    return torch.exp(-differences / variance)


def register(fixed: Tensor, moving: Tensor, start: Tensor, sampling: int = 1) -> Tensor:
    """Return the voxel coordinates (3, w, h, d) in the moving volume (F, w', h', d') of the fixed one (F, w, h, d).

    Args:
        start: initial voxel coordinates, (3, w, h, d).
        sampling: factor by which both steps reduce the resolution.
    """
    shift = search(fixed, sample(moving, start), SEARCH_CELL * sampling)
    # The search displaces the moving volume as resampled at ``start``: compose both.
    voxel_coords = sample(start, indices(start.shape[1:], start.device) + resize(shift, start.shape[1:]))
    return descend(fixed, moving, voxel_coords, sampling)


def search(fixed: Tensor, moved: Tensor, cell: int) -> Tensor:
    """Return the best smooth displacement in voxels, (3, w/cell, h/cell, d/cell), between descriptions (F, w, h, d)."""
    grid = [max(1, round(size / cell)) for size in fixed.shape[1:]]
    cells = F.adaptive_avg_pool3d(fixed[None], grid)[0]
    # At twice the density, for displacements by half cells; index 2i is the mean of cell i.
    halves = F.adaptive_avg_pool3d(box_mean(moved)[None], [2 * n for n in grid])
    halves = F.avg_pool3d(F.pad(halves, [0, 1] * 3, mode="replicate"), 2, stride=1)[0]
    padded = _replicate(halves, SEARCH_STEPS)
    offsets, candidates = _search_offsets(fixed.device)

    def cost_of(offset: Sequence[int]) -> Tensor:
        window = (slice(None), *(slice(o, o + 2 * n, 2) for o, n in zip(offset, grid, strict=True)))
        return (cells - padded[window]).square().mean(0).flatten()

    cost = torch.stack([cost_of(offset) for offset in offsets])
    cost /= cost.mean().clamp_min(1e-12)
    shift = box_mean(candidates[:, cost.argmin(0)].reshape(3, *grid))
    for coupling in COUPLING:
        distance = sum((c[:, None] - s.reshape(1, -1)).square() for c, s in zip(candidates, shift, strict=True))
        shift = box_mean(candidates[:, (cost + coupling * distance).argmin(0)].reshape(3, *grid))
    return torch.stack([s * (n / g) for s, n, g in zip(shift, fixed.shape[1:], grid, strict=True)])


@lru_cache(maxsize=16)
def _search_offsets(device: torch.device) -> tuple[list[list[int]], Tensor]:
    """Return the displacements that are searched, as indices from 0 and in cells from the center, (3, candidates)."""
    offsets = torch.cartesian_prod(*[torch.arange(2 * SEARCH_STEPS + 1)] * 3)
    # The smallest displacement first: it wins a tie.
    offsets = offsets[(offsets - SEARCH_STEPS).square().sum(1).argsort(stable=True)]
    return offsets.tolist(), ((offsets - SEARCH_STEPS).float().T / 2).to(device)


def descend(fixed: Tensor, moving: Tensor, start: Tensor, sampling: int) -> Tensor:
    """Refine voxel coordinates (3, w, h, d) by gradient descent; see ``register``."""
    shape = fixed.shape[1:]
    sampled = [max(1, round(size / sampling)) for size in shape]
    target = F.adaptive_avg_pool3d(fixed[None], sampled)[0]
    begin = F.adaptive_avg_pool3d(start[None], sampled)[0]
    source = box_mean(moving) if sampling > 1 else moving
    scale = (target - sample(source, begin)).square().mean().clamp_min(1e-12)
    control = [max(2, round(size / CONTROL_SPACING)) for size in shape]
    shift = torch.zeros(3, *control, device=fixed.device, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=DESCENT_RATE)
    for _ in range(DESCENT_STEPS):
        smooth = box_mean(box_mean(shift))
        moved = sample(source, begin + resize(smooth, sampled))
        rough = sum(smooth.diff(dim=axis).square().mean() for axis in (1, 2, 3))
        loss = (target - moved).square().mean() / scale + ROUGHNESS_WEIGHT * rough
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return start + resize(box_mean(box_mean(shift)), shape)


def box_mean(field: Tensor, side: int = 3) -> Tensor:
    """Average (C, w, h, d) over the ``side``³ voxels around each, ``side`` odd, with the border replicated."""
    if field.device.type == "cuda" and field.requires_grad:
        return _box_mean_by_axes(field, side)
    return F.avg_pool3d(_replicate(field, side // 2)[None], side, stride=1)[0]


def _box_mean_by_axes(field: Tensor, side: int) -> Tensor:
    """Return ``box_mean`` by slices: the gradients of pooling and padding are added in random order on a GPU."""
    for axis in (1, 2, 3):
        size = field.shape[axis]
        first, last = field.narrow(axis, 0, 1), field.narrow(axis, size - 1, 1)
        padded = torch.cat([first] * (side // 2) + [field] + [last] * (side // 2), axis)
        field = sum(padded.narrow(axis, start, size) for start in range(side)) / side
    return field


def _replicate(field: Tensor, margin: int) -> Tensor:
    return F.pad(field[None], [margin] * 6, mode="replicate")[0]
