"""The scan that represents a cohort best: the one that explains the others best once it is registered to them.

Label propagation fails where registration leaves differences, by noise or by another anatomy. The remaining differences
between scans can be measured without any label.
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
from semisam_o1.propagation.description import FeatureComponents, describe, principal_directions, project
from semisam_o1.propagation.matching import MIN_REDUCED_AXIS
from semisam_o1.propagation.registration import register

MAX_VOXELS = 10_000  # of the median scan on the comparison grid: 0.2 to 0.3 s per pair on one core
MAX_SIZE = 2  # axis length relative to the median scan; larger scans are cropped to their center
CENTER_SIGMA = 0.2  # standard deviation of the weight around the center, relative to the axis
MIN_TARGETS, MAX_TARGETS = 5, 20  # scans that every candidate is registered to
PAIRS = 800  # approximate number of registrations: the more candidates, the fewer targets
SAMPLED_VOXELS = 2_000  # per scan, for the principal directions
FLOAT16_LIMIT = 6e4


@dataclass(frozen=True)
class Candidate:
    """One scan as a template.

    Attributes:
        distance: mean distance of the other scans to it, relative to the cohort's average.
        nearest, farthest: the smallest and the largest of these distances.
    """

    name: str
    distance: float
    nearest: float
    farthest: float


class Distances(NamedTuple):
    """Distances between scans.

    Attributes:
        values: (candidates, targets), NaN for a scan to itself. Every target's distances have mean 1, so that an
            outlier does not dominate.
    """

    candidates: list[str]
    targets: list[str]
    values: np.ndarray


def rank(distances: Distances, weights: Mapping[str, float] | None = None) -> list[Candidate]:
    """Return the candidates by their mean distance to the targets, the smallest first.

    Args:
        weights: weight of every target; None, or zeros for all targets but the candidate: equal weights.
    """
    target_weights = np.array([1.0 if weights is None else weights[name] for name in distances.targets])
    result = []
    for row, name in zip(distances.values, distances.candidates, strict=True):
        known = np.isfinite(row)
        mean = np.average(row[known], weights=target_weights[known] if target_weights[known].any() else None)
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

    The distance is the mean squared difference of their descriptions on a coarse grid after the candidate was
    registered to the target, weighted by a Gaussian around the target's center.

    Args:
        image: name → (W, H, D) float32.
        shapes: name → (W, H, D) of every scan.
        features: name → features to compare as well; None: only descriptions computed from the images.
        device: the device of the registration.
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
                distances[i, j] = _distance(described[target], described[candidate], weight)
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
    """Return the description (K, w, h, d) of every scan on grids with cells of the same size in voxels."""
    median = np.median(list(shapes.values()), axis=0)
    cell = _cell_size(median)
    components = None if features is None else FeatureComponents([features[name] for name in targets])
    described = {}
    for name in progress(list(shapes), "describing"):
        grid = np.maximum((np.array(shapes[name]) / cell).round().astype(int), 1).tolist()
        description = describe(image(name), (features or {}).get(name), grid, components, device).registration
        # All channels, as float16, until the principal directions of all scans are known.
        cropped = _center_crop(description, MAX_SIZE * median / cell)
        described[name] = cropped.clamp(-FLOAT16_LIMIT, FLOAT16_LIMIT).half()
    flat = [described[name].flatten(1) for name in targets]
    sampled = torch.cat([voxels[:, :: -(-voxels.shape[1] // SAMPLED_VOXELS)] for voxels in flat], dim=1)
    directions = principal_directions(sampled.float())
    for name in shapes:
        described[name] = project(described[name].float(), directions)
    return described


def _cell_size(shape: np.ndarray) -> np.ndarray:
    """Return the size of a cell (3,) in voxels, for a median ``shape``; thin axes are not reduced."""
    long = shape >= MIN_REDUCED_AXIS
    excess = max(1.0, np.prod(shape) / MAX_VOXELS)
    return np.where(long, excess ** (1 / max(long.sum(), 1)), 1.0)


def _center_crop(description: Tensor, max_size: np.ndarray) -> Tensor:
    """Crop a description (G, w, h, d) to the center, to at most ``max_size`` voxels per axis."""
    for axis, limit in enumerate(np.ceil(max_size).astype(int).tolist(), start=1):
        excess = description.shape[axis] - limit
        if excess > 0:
            description = description.narrow(axis, excess // 2, limit)
    return description


def _distance(fixed: Tensor, moving: Tensor, weight: Tensor) -> float:
    """Return the weighted mean squared difference of two descriptions (K, w, h, d) once the second is registered."""
    shift = torch.tensor([m - f for m, f in zip(moving.shape[1:], fixed.shape[1:], strict=True)], device=fixed.device)
    centered = indices(fixed.shape[1:], fixed.device) + shift.view(3, 1, 1, 1) / 2
    voxel_coords = register(fixed, moving, centered)
    return float(((fixed - sample(moving, voxel_coords)).square().mean(0) * weight).sum())


def _center_weight(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the weight (w, h, d) of every voxel, a Gaussian around the center with sum 1."""
    axes = [(torch.arange(size, device=device) + 0.5) / size - 0.5 for size in shape]
    squared = sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij"))
    weight = torch.exp(-squared / (2 * CENTER_SIGMA**2))
    return weight / weight.sum()
