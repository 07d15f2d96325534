"""Correction of predictions by other volumes: a vote of the nearest certain neighbors, or fusion with the atlas.

Fusion: the network, the predictions of registered neighbors, and the templates' propagated labels of round 0 label
every voxel. A certain prediction of the network is never overruled; where it is uncertain, the other two decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from semisam_o1.data.dataset.geometry import resize_nearest
from semisam_o1.propagation.cohort import CohortAtlas

NEIGHBOR_WEIGHT = 0.25
TEMPLATE_WEIGHT = 0.25


def uncertain_volumes(uncertainty: Mapping[str, float], quantile: float) -> list[str]:
    """Return the unlabeled volumes whose uncertainty reaches the given quantile of them all."""
    if not uncertainty:
        return []
    threshold = np.quantile(list(uncertainty.values()), quantile)
    return [name for name, value in uncertainty.items() if value >= threshold]


def refine(
    labels: Mapping[str, np.ndarray],
    uncertainty: Mapping[str, float],
    features: Mapping[str, np.ndarray],
    num_classes: int,
    k: int,
    quantile: float,
) -> dict[str, np.ndarray]:
    """Return the new labels of the uncertain volumes; empty if none is uncertain or fewer than k are certain.

    Args:
        labels: uint8 (W, H, D) per volume, the labeled ones' own labels included.
        uncertainty: mean entropy in nats of every *unlabeled* volume; the labeled ones are certain.
        features: global feature of unit length per volume.
        num_classes: background included.
        k: neighbors that vote, weighted by the cosine of the global features, negative ones by 0.
        quantile: volumes at or above this quantile of the uncertainty are uncertain.
    """
    uncertain = set(uncertain_volumes(uncertainty, quantile))
    certain = [name for name in labels if name not in uncertain]
    if not uncertain or len(certain) < k:
        return {}
    bank = np.stack([features[name] for name in certain])
    refined = {}
    for name in (name for name in labels if name in uncertain):
        similarity = bank @ features[name]
        nearest = np.argsort(-similarity, kind="stable")[:k]
        voters = [labels[certain[i]] for i in nearest]
        refined[name] = vote(labels[name], voters, np.maximum(similarity[nearest], 0), num_classes)
    return refined


def vote(label: np.ndarray, voters: Sequence[np.ndarray], weights: np.ndarray, num_classes: int) -> np.ndarray:
    """Return, voxel by voxel, the class with the largest weighted vote; ``label`` itself if all weights are 0.

    Args:
        label: uint8 (W, H, D), the prediction that is voted on.
        voters: uint8 label maps, resized to ``label``'s shape by nearest neighbor.
        weights: one non-negative weight per voter.
    """
    if not np.any(weights > 0):
        return label
    ballots = np.zeros((num_classes, *label.shape), np.float32)
    for voter, weight in zip(voters, weights, strict=True):
        voter = resize_nearest(voter, label.shape)
        for c in range(num_classes):
            ballots[c] += weight * (voter == c)
    return ballots.argmax(0).astype(np.uint8)


def fuse(name: str, atlas: CohortAtlas, predicted: Callable[[str], np.ndarray]) -> np.ndarray:
    """Return the fused class probabilities (C, w, h, d) float32 of a volume, on its working grid.

    Args:
        predicted: name → the network's probabilities (C, w, h, d) float32, for this volume and its neighbors.
    """
    own = (1 - NEIGHBOR_WEIGHT - TEMPLATE_WEIGHT) * predicted(name)
    return own + NEIGHBOR_WEIGHT * atlas.fuse_neighbors(name, predicted) + TEMPLATE_WEIGHT * atlas.consensus(name)
