"""Pseudo-labels of a cohort, the uncertainty of a prediction, and the largest components of a label map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


@dataclass
class PseudoLabels:
    """The labels of a cohort after one round.

    Attributes:
        labels: uint8 (W, H, D) per volume, the labeled ones' own labels included.
        uncertainty: mean entropy in nats per unlabeled volume; empty after round 0.
        refined: the volumes whose labels were corrected by their neighbors.
        dice: mean foreground Dice per unlabeled volume whose true label is known.
        confidence: uint8 (W, H, D) per unlabeled volume, 255 times the probability of the label, where it is known.
    """

    labels: dict[str, np.ndarray]
    uncertainty: dict[str, float] = field(default_factory=dict)
    refined: list[str] = field(default_factory=list)
    dice: dict[str, float] = field(default_factory=dict)
    confidence: dict[str, np.ndarray] = field(default_factory=dict)


def mean_entropy(probabilities: Tensor) -> float:
    """Return the mean over voxels of −Σ p ln p in nats, from probabilities (C, W, H, D)."""
    return float(-torch.xlogy(probabilities, probabilities).sum(0).mean(dtype=torch.float64))


def largest_components(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Set all voxels outside the largest connected component of each foreground class to background.

    Voxels are connected through their faces; of two components of the same size, the first in memory remains.

    Args:
        label: uint8 (W, H, D).
        num_classes: background included.
    """
    result = np.zeros_like(label)
    for c in range(1, num_classes):
        components, count = ndimage.label(label == c)
        if count:
            sizes = np.bincount(components.ravel())[1:]
            result[components == 1 + sizes.argmax()] = c
    return result
