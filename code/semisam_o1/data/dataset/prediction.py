"""Labels and how sure they are, from class probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Prediction(NamedTuple):
    """The labels of one volume.

    Attributes:
        label: uint8 (W, H, D).
        confidence: uint8 (W, H, D), 255 times the probability of that label; None where it is not known.
    """

    label: np.ndarray
    confidence: np.ndarray | None = None


def to_prediction(probabilities: Tensor) -> Prediction:
    """Return the most probable class of each voxel of (C, W, H, D) probabilities; ties go to the lower class."""
    label = probabilities.argmax(0)  # the values of max() come with another choice among ties
    confidence = (255 * probabilities.amax(0)).round()
    return Prediction(label.to(torch.uint8).cpu().numpy(), confidence.to(torch.uint8).cpu().numpy())
