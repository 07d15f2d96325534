"""From averaged class probabilities to a pseudo-label and how unsure it is."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_entropy(probabilities: Tensor) -> float:
    """Return the mean over voxels of −Σ p ln p in nats, from probabilities (C, W, H, D)."""
    return float(-torch.xlogy(probabilities, probabilities).sum(0).mean(dtype=torch.float64))


def label_map(probabilities: Tensor) -> Tensor:
    """Return the most probable class of each voxel, uint8 (W, H, D); ties go to the lower class."""
    return probabilities.argmax(0).to(torch.uint8)
