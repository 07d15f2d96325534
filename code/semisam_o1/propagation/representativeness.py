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

from semisam_o1.core.progress import ProgressFn, silent
from semisam_o1.data.sampling.fields import indices, sample
from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.propagation.description import Components, Scan, along, describe, leading_directions
from semisam_o1.propagation.matching import MIN_REDUCED_AXIS
from semisam_o1.propagation.registration import register

MAX_VOXELS = 10_000  # of the median scan on the grid that scans are compared on: 0.2 to 0.3 s a pair on one core
LARGEST = 2  # times the median scan on every axis; of larger ones, the middle is compared
CENTER = 0.2  # of an axis: the standard deviation of the weight around the center, where the object usually lies
MIN_TARGETS, MAX_TARGETS = 5, 20  # scans that every candidate is registered to
PAIRS = 800  # in all, about: the more candidates, the fewer targets
SAMPLED = 2_000  # voxels of a scan that the compared directions are found by
FLOAT16 = 6e4  # what it holds


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
        weights: target → how much it counts. None, or nothing but zeros beside a candidate: all the same.
    """
    heed = np.array([1.0 if weights is None else weights[name] for name in distances.targets])
    result = []
    for row, name in zip(distances.values, distances.candidates, strict=True):
        known = np.isfinite(row)
        mean = np.average(row[known], weights=heed[known] if heed[known].any() else None)
        result.append(Candidate(name, float(mean), float(row[known].min()), float(row[known].max())))
    return sorted(result, key=lambda candidate: candidate.distance)


def distances_between(
    image: Callable[[str], np.ndarray],
    shapes: Mapping[str, Sequence[int]],
    features: Mapping[str, VolumeFeatures] | None = None,
    device: torch.device | str = "cpu",
    progress: ProgressFn = silent,
) -> Distances:
    """Return the distance of every scan to an even selection of them.

    It is the mean squared difference of their descriptions after the candidate was registered to the target, on a
    coarse grid; voxels near the target's center count most.

    Args:
        image: name → (W, H, D) float32.
        shapes: name → (W, H, D) of every scan.
        features: name → of every scan, compared as well; None: only what is computed from the images.
        device: that registers.
    """
    device, names = torch.device(device), list(shapes)
    count = min(len(names), MAX_TARGETS, max(MIN_TARGETS, PAIRS // len(names)))
    targets = [names[i] for i in np.linspace(0, len(names) - 1, count).round().astype(int)]
    described = _describe_all(image, shapes, features, targets, device, progress)
    distances = np.full((len(names), count), np.nan)
    for j, target in enumerate(progress(targets, "comparing")):
        weight = _center_weight(described[target].shape[1:], device)
        for i, candidate in enumerate(names):
            if candidate != target:
                distances[i, j] = _unexplained(described[target], described[candidate], weight)
    mean = np.nanmean(distances, axis=0)
    return Distances(names, targets, distances / np.where(mean > 0, mean, 1))


def _describe_all(
    image: Callable[[str], np.ndarray],
    shapes: Mapping[str, Sequence[int]],
    features: Mapping[str, VolumeFeatures] | None,
    targets: Sequence[str],
    device: torch.device,
    progress: ProgressFn,
) -> dict[str, Tensor]:
    """Return the description (K, w, h, d) of every scan; all grids have cells of the same size in voxels."""
    usual = np.median(list(shapes.values()), axis=0)
    cells = _cells(usual)
    components = None if features is None else Components([features[name] for name in targets])
    described = {}
    for name in progress(list(shapes), "describing"):
        grid = np.maximum((np.array(shapes[name]) / cells).round().astype(int), 1).tolist()
        scan = Scan(image(name), None if features is None else features[name])
        whole = describe(scan, grid, components, device).registration
        # As float16, with all channels, until it is known in which directions they differ.
        described[name] = _middle(whole, LARGEST * usual / cells).clamp(-FLOAT16, FLOAT16).half()
    directions = leading_directions(torch.cat([_picked(described[name]) for name in targets], dim=1).float())
    for name in shapes:
        described[name] = along(described[name].float(), directions)
    return described


def _cells(shape: np.ndarray) -> np.ndarray:
    """Return the size of a cell (3,) in voxels, for scans of a usual ``shape``; thin axes are left as they are."""
    long = shape >= MIN_REDUCED_AXIS
    excess = max(1.0, np.prod(shape) / MAX_VOXELS)
    return np.where(long, excess ** (1 / max(long.sum(), 1)), 1.0)


def _middle(description: Tensor, most: np.ndarray) -> Tensor:
    """Return the middle of a description (G, w, h, d), at most so many voxels on each axis."""
    for axis, limit in enumerate(np.ceil(most).astype(int).tolist(), start=1):
        excess = description.shape[axis] - limit
        if excess > 0:
            description = description.narrow(axis, excess // 2, limit)
    return description


def _picked(description: Tensor) -> Tensor:
    flat = description.flatten(1)
    return flat[:, :: -(-flat.shape[1] // SAMPLED)]


def _unexplained(fixed: Tensor, moving: Tensor, weight: Tensor) -> float:
    """Return the weighted mean squared difference of two descriptions (K, w, h, d) once the second is registered."""
    shift = torch.tensor([m - f for m, f in zip(moving.shape[1:], fixed.shape[1:], strict=True)], device=fixed.device)
    centered = indices(fixed.shape[1:], fixed.device) + shift.view(3, 1, 1, 1) / 2
    places = register(fixed, moving, centered)
    return float(((fixed - sample(moving, places)).square().mean(0) * weight).sum())


def _center_weight(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the weight (w, h, d) of every voxel, a Gaussian around the center with sum 1."""
    axes = [(torch.arange(size, device=device) + 0.5) / size - 0.5 for size in shape]
    squared = sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij"))
    weight = torch.exp(-squared / (2 * CENTER**2))
    return weight / weight.sum()
