"""Which scan stands best for a cohort: the one that is most like all others, place by place."""

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

    The distance between two scans is the mean, over the cells of either, of the squared distance between the
    cell's feature and the most similar one anywhere in the other; cells near the centre count most. Every scan's
    distances are divided by their mean, so that an odd scan, far from all, does not decide.

    Args:
        wrap: wraps the names of the candidates, to show progress.
    """
    distances = distances_between(features, wrap)
    names = list(features)
    result = []
    for row, name in zip(distances, names, strict=True):
        known = row[np.isfinite(row)]
        result.append(Candidate(name, float(known.mean()), float(known.min()), float(known.max())))
    return sorted(result, key=lambda candidate: candidate.distance)


def distances_between(
    features: Mapping[str, VolumeFeatures], wrap: Callable[[Sequence[str]], Sequence[str]] = list
) -> np.ndarray:
    """Return the distance of every candidate (row) to every scan (column), NaN for a scan to itself.

    The columns have mean 1; of more than MAX_TARGETS scans, an even selection makes the columns.
    """
    names = list(features)
    cells = {name: _cells(features[name].spatial) for name in names}
    targets = names[:: -(-len(names) // MAX_TARGETS)]
    distances = np.full((len(names), len(targets)), np.nan)
    known: dict[frozenset[str], float] = {}
    for i, candidate in enumerate(wrap(names)):
        for j, target in enumerate(targets):
            if target != candidate:
                pair = frozenset((candidate, target))
                if pair not in known:
                    known[pair] = _distance(cells[candidate], cells[target])
                distances[i, j] = known[pair]
    return distances / np.nanmean(distances, axis=0)


def _distance(first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]) -> float:
    (a, weight_a), (b, weight_b) = first, second
    squared = ((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T).clamp(min=0)
    return float((squared.min(1).values * weight_a).sum() + (squared.min(0).values * weight_b).sum()) / 2


def _cells(spatial: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features (n, F) of a scan's cells and their weights (n,), which sum to 1."""
    grid = [-(-size // -(-size // MAX_CELLS)) for size in spatial.shape[1:]]
    tensor = torch.from_numpy(cell_means(spatial, grid))
    axes = [(torch.arange(size) + 0.5) / size - 0.5 for size in grid]
    squared = sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij"))
    weight = torch.exp(-squared / (2 * CENTRE**2)).flatten()
    return tensor.flatten(1).T.contiguous(), weight / weight.sum()
