"""Which scan stands best for a cohort: the one that the others are explained by best, once it is registered to them.

A label is carried from the template to the other scans by registration. What registration leaves unexplained, noise or
another anatomy, is what carrying over gets wrong. No label is needed to see it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.fields import indices, sample
from .description import Components, Scan, describe, leading_directions
from .matching import MIN_REDUCED_AXIS
from .registration import register

MAX_VOXELS = 10_000  # of the mean scan on the grid that scans are compared on: a fifth of a second per pair and core
CENTRE = 0.2  # of an axis: the standard deviation of the weight around the centre, where the object usually lies
MAX_TARGETS = 20  # scans that a candidate is registered to; of a larger cohort every n-th
MIN_TARGETS, MAX_PAIRS = 5, 1000  # fewer where candidates are many
SAMPLED = 2_000  # voxels of a scan that the compared directions are found by


@dataclass(frozen=True)
class Candidate:
    """One scan as a template.

    Attributes:
        distance: mean over the other scans of their distance to it, 1 being the cohort's average.
        nearest, farthest: the smallest and largest of these distances.
    """

    name: str
    distance: float
    nearest: float
    farthest: float


class Distances(NamedTuple):
    """How far scans are from each other.

    Attributes:
        values: (candidates, targets), NaN for a scan to itself. Every target's distances have mean 1, so that an odd
            scan, far from all, does not decide.
    """

    candidates: list[str]
    targets: list[str]
    values: np.ndarray


def rank(distances: Distances, weights: Mapping[str, float] | None = None) -> list[Candidate]:
    """Return the candidates by their mean distance to the targets, the smallest first.

    Args:
        weights: target → how much it counts; those that are missing do not. None: all the same.
    """
    heed = np.ones(len(distances.targets))
    if weights is not None:
        heed = np.array([weights.get(name, 0.0) for name in distances.targets])
    result = []
    for row, name in zip(distances.values, distances.candidates, strict=True):
        known = np.isfinite(row)
        counted = known & (heed > 0) if heed[known].any() else known
        mean = np.average(row[counted], weights=heed[counted] if heed[counted].any() else None)
        result.append(Candidate(name, float(mean), float(row[known].min()), float(row[known].max())))
    return sorted(result, key=lambda candidate: candidate.distance)


def distances_between(
    scan: Callable[[str], Scan],
    shapes: Mapping[str, Sequence[int]],
    device: torch.device | str = "cpu",
    wrap: Callable[[Sequence[str]], Sequence[str]] = list,
) -> Distances:
    """Return the distance of every scan to a selection of them.

    It is the mean squared difference of their descriptions after the candidate was registered to the target, on a
    coarse grid; voxels near the target's centre count most. The targets are evenly chosen, see MAX_TARGETS.

    Args:
        scan: name → volume; either all have ``features`` or none.
        shapes: name → (W, H, D) of every scan.
        device: that registers.
        wrap: wraps the names of the targets, to show progress.
    """
    device, names = torch.device(device), list(shapes)
    count = min(MAX_TARGETS, max(MIN_TARGETS, MAX_PAIRS // len(names)))
    targets = names[:: -(-len(names) // count)]
    described = _describe_all(scan, shapes, targets, device)
    distances = np.full((len(names), len(targets)), np.nan)
    for j, target in enumerate(wrap(targets)):
        weight = _centre_weight(described[target].shape[1:], device)
        for i, candidate in enumerate(names):
            if candidate != target:
                distances[i, j] = _unexplained(described[target], described[candidate], weight)
    mean = np.nanmean(distances, axis=0)
    return Distances(names, targets, distances / np.where(mean > 0, mean, 1))


def _describe_all(
    scan: Callable[[str], Scan], shapes: Mapping[str, Sequence[int]], targets: Sequence[str], device: torch.device
) -> dict[str, Tensor]:
    """Return the description (K, w, h, d) of every scan; all grids have cells of the same size in voxels."""
    cells = _cells(np.mean(list(shapes.values()), axis=0))
    features = [scan(name).features for name in targets]
    components = None if features[0] is None else Components(features)
    # As float16 and with all channels, until it is known in which directions they differ.
    described = {}
    for name, shape in shapes.items():
        grid = [max(1, round(size / cell)) for size, cell in zip(shape, cells, strict=True)]
        described[name] = describe(scan(name), grid, components, device).registration.half()
    picked = [_picked(described[name]) for name in targets]
    directions = leading_directions(torch.cat(picked, dim=1).float())
    return {
        name: (directions @ part.flatten(1).float()).unflatten(1, part.shape[1:]) for name, part in described.items()
    }


def _cells(shape: np.ndarray) -> np.ndarray:
    """Return the size of a cell (3,) in voxels, for scans of a mean ``shape``; thin axes are left as they are."""
    long = shape >= MIN_REDUCED_AXIS
    excess = max(1.0, np.prod(shape) / MAX_VOXELS)
    return np.where(long, excess ** (1 / max(long.sum(), 1)), 1.0)


def _picked(description: Tensor) -> Tensor:
    flat = description.flatten(1)
    return flat[:, :: -(-flat.shape[1] // SAMPLED)]


def _unexplained(fixed: Tensor, moving: Tensor, weight: Tensor) -> float:
    """Return the weighted mean squared difference of two descriptions (K, w, h, d) once the second is registered."""
    shift = torch.tensor([m - f for m, f in zip(moving.shape[1:], fixed.shape[1:], strict=True)], device=fixed.device)
    centred = indices(fixed.shape[1:], fixed.device) + shift.view(3, 1, 1, 1) / 2
    places = register(fixed, moving, centred)
    return float(((fixed - sample(moving, places)).square().mean(0) * weight).sum())


def _centre_weight(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the weight (w, h, d) of every voxel, a Gaussian around the centre with sum 1."""
    axes = [(torch.arange(size, device=device) + 0.5) / size - 0.5 for size in shape]
    squared = sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij"))
    weight = torch.exp(-squared / (2 * CENTRE**2))
    return weight / weight.sum()
