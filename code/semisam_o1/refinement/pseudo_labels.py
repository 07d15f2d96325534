"""Pseudo-labels of a cohort, their weights, the uncertainty of a prediction, and the largest components of a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from semisam_o1.data.dataset.prediction import Prediction


@dataclass
class PseudoLabels:
    """The labels of a cohort after one round; all but ``labels`` is of unlabeled volumes, and empty where not known."""

    labels: dict[str, np.ndarray]  # uint8 (W, H, D) per volume, the labeled ones' own labels included
    uncertainty: dict[str, float] = field(default_factory=dict)  # mean entropy in nats, after round 0
    refined: list[str] = field(default_factory=list)  # the volumes whose labels were corrected by their neighbors
    dice: dict[str, float] = field(default_factory=dict)  # mean over the foreground classes, to the true label
    expected: dict[str, tuple[float, ...]] = field(default_factory=dict)  # Dice per foreground class, without truth
    kept: list[str] = field(default_factory=list)  # the volumes that keep their label of the round before
    reliability: tuple[float, ...] | None = None  # Dice over that expected by the network's probabilities, per class
    confidence: dict[str, np.ndarray] = field(default_factory=dict)  # uint8 (W, H, D), 255 · probability of the label

    def of(self, name: str) -> Prediction:
        """Return the label of a volume with its confidence."""
        return Prediction(self.labels[name], self.confidence.get(name))


def keep_former(pseudo: PseudoLabels, former: PseudoLabels, names: Sequence[str]) -> PseudoLabels:
    """Return the labels of a round with those of the round before for the volumes ``names``."""
    full = {name: np.full_like(former.labels[name], 255) for name in names if name not in former.confidence}
    return replace(
        pseudo,
        labels=pseudo.labels | {name: former.labels[name] for name in names},
        confidence=pseudo.confidence | full | {n: former.confidence[n] for n in names if n in former.confidence},
        expected=pseudo.expected | {name: former.expected[name] for name in names if name in former.expected},
        refined=[name for name in pseudo.refined if name not in names],
        kept=list(names),
    )


def mean_entropy(probabilities: Tensor) -> float:
    """Return the mean over voxels of −Σ p ln p in nats, from probabilities (C, W, H, D)."""
    return float(-torch.xlogy(probabilities, probabilities).sum(0).mean(dtype=torch.float64))


def class_balanced(confidence: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Return voxel weights uint8 (W, H, D) from the confidence in a label, with the same mean for every class.

    Unsure voxels are mostly foreground. Weighted by their confidence alone, foreground would lose more of its weight
    than background, and networks would learn to draw less of it. The class with the lowest mean sets that of all.

    Args:
        confidence, label: uint8 (W, H, D).
    """
    counts = np.bincount(label.ravel(), minlength=num_classes)
    means = np.bincount(label.ravel(), confidence.ravel(), num_classes) / np.maximum(counts, 1)
    factors = means[counts > 0].min() / np.maximum(means, 1e-12)
    return np.rint(confidence * factors.astype(np.float32)[label]).astype(np.uint8)


def without_islands(prediction: Prediction, probabilities: Tensor, num_classes: int) -> Prediction:
    """Return a prediction with the largest component of each class alone.

    What is removed becomes background, with the confidence of that: class probabilities (C, W, H, D) are given.
    """
    label = largest_components(prediction.label, num_classes)
    background = (255 * probabilities[0]).round().to(torch.uint8).cpu().numpy()
    return Prediction(label, np.where(label == prediction.label, prediction.confidence, background))


def largest_components(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Return a label map (W, H, D) uint8 with the largest connected component of each foreground class alone.

    Voxels are connected through their faces; of two components of the same size, the first in memory remains.
    """
    result = np.zeros_like(label)
    for c in range(1, num_classes):
        components, count = ndimage.label(label == c)
        if count:
            sizes = np.bincount(components.ravel())[1:]
            result[components == 1 + sizes.argmax()] = c
    return result
