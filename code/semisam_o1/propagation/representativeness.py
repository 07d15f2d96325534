"""The scan that represents a cohort best: the one that explains the others best once it is registered to them.

Label propagation fails where registration leaves differences; these can be measured without any label.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from semisam_o1.core.terminal import ProgressFn, silent
from semisam_o1.data.sampling.fields import indices, rescale, sample
from semisam_o1.features.builtin import cell_means
from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.propagation.description import FeatureComponents, describe, principal_directions
from semisam_o1.propagation.registration import CUBE, Channels, displaced, register

MAX_VOXELS = 10_000  # of the median scan on the comparison grid: 0.2 to 0.3 s per pair on one core
MAX_SIZE = 2  # axis length relative to the median scan; larger scans are cropped to their center
CENTER_SIGMA = 0.2  # standard deviation of the weight around the center, relative to the axis
MIN_TARGETS, MAX_TARGETS = 5, 20  # scans that every candidate is registered to
PAIRS = 800  # approximate number of registrations: the more candidates, the fewer targets
SAMPLED_VOXELS = 2_000  # per scan, for the principal directions
MIN_REDUCED_AXIS = 32  # voxels; shorter axes are not reduced
FLOAT16_LIMIT = 6e4


@dataclass(frozen=True)
class Candidate:
    """One scan as a template, with the distances of the other scans to it, relative to the cohort's average."""

    name: str
    distance: float  # mean
    nearest: float
    farthest: float
    gain: float | None = None  # mean decrease of the others' distances by it, beside the templates that there are


class Distances(NamedTuple):
    """Distances (candidates, targets), NaN for a scan to itself; mean 1 per target, so that no outlier dominates."""

    candidates: list[str]
    targets: list[str]
    values: np.ndarray


def rank(distances: Distances) -> list[Candidate]:
    """Return the candidates by their mean distance to the targets, the smallest first."""
    result = []
    for row, name in zip(distances.values, distances.candidates, strict=True):
        known = row[np.isfinite(row)]
        result.append(Candidate(name, float(known.mean()), float(known.min()), float(known.max())))
    return sorted(result, key=lambda candidate: candidate.distance)


def rank_beside(
    distances: Distances, templates: Collection[str], weights: Mapping[str, float] | None = None
) -> list[Candidate]:
    """Return the candidates by what they add to templates, the largest gain first.

    A target that is nearer to the candidate than to every template gains the difference; others gain nothing.

    Args:
        weights: of the targets in the mean gain; equal if None, or if all but the candidate's own are 0.
    """
    is_template = [name in templates for name in distances.candidates]
    open_targets = np.array([name not in templates for name in distances.targets])
    reached = distances.values[is_template].min(axis=0, where=open_targets, initial=np.inf)
    target_weights = np.array([1.0 if weights is None else weights.get(name, 0.0) for name in distances.targets])
    rows = dict(zip(distances.candidates, distances.values, strict=True))
    result = []
    for candidate in rank(distances):
        if candidate.name not in templates:
            row = rows[candidate.name]
            known = np.isfinite(row) & open_targets
            gained = np.maximum(reached[known] - row[known], 0)
            shares = target_weights[known] if target_weights[known].any() else None
            result.append(replace(candidate, gain=float(np.average(gained, weights=shares))))
    return sorted(result, key=lambda candidate: -candidate.gain)  # equal ones stay in order of their distance


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
        features: name → features to compare beside the descriptions computed from the images.
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
                difference = _registered_difference(described[target], described[candidate])
                distances[i, j] = float((difference * weight).sum())
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
    long = median >= MIN_REDUCED_AXIS  # thin axes are not reduced
    excess = max(1.0, np.prod(median) / MAX_VOXELS)
    cell = np.where(long, excess ** (1 / max(long.sum(), 1)), 1.0)
    components = None if features is None else FeatureComponents([features[name] for name in targets])
    described = {}
    for name in progress(list(shapes), "describing"):
        grid = np.maximum((np.array(shapes[name]) / cell).round().astype(int), 1).tolist()
        volume = image(name)
        parts = (
            None if components is None else components.at(features[name], volume.shape, _centers(volume.shape, grid))
        )
        description = describe(cell_means(volume, grid), CUBE, 1, parts, device)[1].values
        for axis, limit in enumerate(np.ceil(MAX_SIZE * median / cell).astype(int).tolist(), start=1):
            excess = max(description.shape[axis] - limit, 0)
            description = description.narrow(axis, excess // 2, description.shape[axis] - excess)
        # All channels, as float16, until the principal directions of all scans are known.
        described[name] = description.clamp(-FLOAT16_LIMIT, FLOAT16_LIMIT).half()
    flat = [described[name].flatten(1) for name in targets]
    sampled = torch.cat([voxels[:, :: -(-voxels.shape[1] // SAMPLED_VOXELS)] for voxels in flat], dim=1)
    directions = principal_directions(sampled.float())
    for name in shapes:
        described[name] = torch.tensordot(directions, described[name].float(), 1)
    return described


def _registered_difference(fixed: Tensor, moving: Tensor) -> Tensor:
    """Return the squared difference (w, h, d) of two descriptions (K, w, h, d) once the second is registered."""
    shift = [(m - f) / 2 for m, f in zip(moving.shape[1:], fixed.shape[1:], strict=True)]
    centered = indices(fixed.shape[1:], fixed.device, shift)
    displacement = register(Channels(fixed), Channels(moving), centered)
    return (fixed - sample(moving, displaced(centered, displacement, CUBE))).square().mean(0)


def _centers(shape: Sequence[int], grid: Sequence[int]) -> np.ndarray:
    """Return the centers of a grid's cells in voxel coordinates of a volume of ``shape``, (3, w, h, d)."""
    return rescale(indices(grid), grid, shape).numpy()


def _center_weight(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the weight (w, h, d) of every voxel, a Gaussian around the center with sum 1."""
    axes = [(torch.arange(size, device=device) + 0.5) / size - 0.5 for size in shape]
    squared = sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij"))
    weight = torch.exp(-squared / (2 * CENTER_SIGMA**2))
    return weight / weight.sum()
