"""Post-processing of label maps: the largest connected component of each class."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


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
