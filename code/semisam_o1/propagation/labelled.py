"""Labels and how sure they are, from class probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Labelled(NamedTuple):
    """The labels of one volume.

    Attributes:
        label: uint8 (W, H, D).
        confidence: uint8 (W, H, D), 255 times the probability of that label; None where it is not known.
    """

    label: np.ndarray
    confidence: np.ndarray | None = None


def labelled(probabilities: Tensor) -> Labelled:
    """Return the most probable class of each voxel of (C, W, H, D) probabilities; ties go to the lower class."""
    label = probabilities.argmax(0)  # the values of max() come with another choice among ties
    confidence = (255 * probabilities.amax(0)).round()
    return Labelled(label.to(torch.uint8).cpu().numpy(), confidence.to(torch.uint8).cpu().numpy())
