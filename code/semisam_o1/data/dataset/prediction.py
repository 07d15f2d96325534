"""The segmentation of one volume, from class probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """The segmentation of one volume."""

    label: np.ndarray  # label map uint8 (W, H, D)
    confidence: np.ndarray | None = None  # uint8 (W, H, D), 255 times the probability of the label, where it is known

    @classmethod
    def from_probabilities(cls, probabilities: Tensor) -> Prediction:
        """Label each voxel with its most probable class (the lower one of a tie), from (C, W, H, D) on any device."""
        label = probabilities.argmax(0)  # max() returns indices as well, with other ones among ties
        confidence = (255 * probabilities.amax(0)).round()
        return cls(label.to(torch.uint8).cpu().numpy(), confidence.to(torch.uint8).cpu().numpy())
