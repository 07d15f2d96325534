"""What cannot be anatomy is removed: all but the largest connected part of each class."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def largest_components(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Return a label map with everything but the largest connected part of each foreground class set to background.

    Voxels are connected through their faces; of two parts of the same size, the first in memory stays.

    Args:
        label: uint8 (W, H, D).
        num_classes: background included.
    """
    kept = np.zeros_like(label)
    for c in range(1, num_classes):
        parts, count = ndimage.label(label == c)
        if count:
            sizes = np.bincount(parts.ravel())[1:]
            kept[parts == 1 + sizes.argmax()] = c
    return kept
