"""The segmentation of one volume, from class probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """The segmentation of one volume.

    Attributes:
        label: label map uint8 (W, H, D).
        confidence: uint8 (W, H, D), 255 times the probability of the label; None where it is not known.
        probabilities: class probabilities float32 (C, W, H, D), where they were asked for.
    """

    label: np.ndarray
    confidence: np.ndarray | None = None
    probabilities: np.ndarray | None = None

    @classmethod
    def from_probabilities(cls, probabilities: Tensor, keep_probabilities: bool = False) -> Prediction:
        """Label each voxel with its most probable class, the lower one of a tie.

        Args:
            probabilities: (C, W, H, D) on any device.
            keep_probabilities: whether the prediction holds the probabilities, too.
        """
        label = probabilities.argmax(0)  # max() returns indices as well, with other ones among ties
        confidence = (255 * probabilities.amax(0)).round()
        return cls(
            label.to(torch.uint8).cpu().numpy(),
            confidence.to(torch.uint8).cpu().numpy(),
            probabilities.float().cpu().numpy() if keep_probabilities else None,
        )
