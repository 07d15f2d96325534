"""Which scan stands best for a cohort: the one whose surroundings of every point the other scans find again in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .builtin import cell_means
from .extract import VolumeFeatures

MAX_CELLS = 16  # per axis; finer grids are averaged: a cohort is compared in a minute instead of an hour
CENTRE = 0.2  # of an axis: the standard deviation of the weight around the centre, where the object usually lies
MAX_TARGETS = 100  # scans that a candidate is compared with; of a larger cohort every n-th


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


def rank(
    features: Mapping[str, VolumeFeatures], wrap: Callable[[Sequence[str]], Sequence[str]] = list
) -> list[Candidate]:
    """Return the scans by how well each stands for the others, the medoid of the cohort first.

    The distance from a scan to a candidate is the mean, over the cells of the scan, of the squared distance
    between the cell's feature and the most similar one anywhere in the candidate; cells near the centre of the
    scan count most. Every scan's distances are divided by their mean, so that an odd scan, far from all, does
    not decide.

    Args:
        wrap: wraps the names of the candidates, to show progress.
    """
    distances = coverage(features, wrap)
    names = list(features)
    result = []
    for row, name in zip(distances, names, strict=True):
        known = row[np.isfinite(row)]
        result.append(Candidate(name, float(known.mean()), float(known.min()), float(known.max())))
    return sorted(result, key=lambda candidate: candidate.distance)


def coverage(
    features: Mapping[str, VolumeFeatures], wrap: Callable[[Sequence[str]], Sequence[str]] = list
) -> np.ndarray:
    """Return the distance of every scan (column) to every candidate (row), NaN for a scan to itself.

    The columns have mean 1; of more than MAX_TARGETS scans, an even selection makes the columns.
    """
    names = list(features)
    cells = {name: _cells(features[name].spatial) for name in names}
    targets = names[:: -(-len(names) // MAX_TARGETS)]
    distances = np.full((len(names), len(targets)), np.nan)
    for i, candidate in enumerate(wrap(names)):
        values, _ = cells[candidate]
        squares = (values**2).sum(1)
        for j, target in enumerate(targets):
            if target != candidate:
                own, weight = cells[target]
                nearest = (squares[None] - 2 * own @ values.T).min(dim=1).values + (own**2).sum(1)
                distances[i, j] = float((nearest.clamp(min=0) * weight).sum())
    return distances / np.nanmean(distances, axis=0)


def _cells(spatial: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features (n, F) of a scan's cells and their weights (n,), which sum to 1."""
    grid = [-(-size // -(-size // MAX_CELLS)) for size in spatial.shape[1:]]
    tensor = torch.from_numpy(cell_means(spatial, grid))
    axes = [(torch.arange(size) + 0.5) / size - 0.5 for size in grid]
    squared = sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij"))
    weight = torch.exp(-squared / (2 * CENTRE**2)).flatten()
    return tensor.flatten(1).T.contiguous(), weight / weight.sum()
