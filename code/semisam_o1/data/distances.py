"""Distance maps of labels."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import find_boundaries
from torch import Tensor


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Return the normalised signed distance map of one boolean mask (W, H, D), float32 in [−1, 1].

    The distance to the object over its maximum, minus the distance to the background over its maximum;
    0 on the object's inner boundary, negative inside. 0 everywhere if the mask is empty, −1 if it is full.
    Xue et al., "Shape-Aware Organ Segmentation by Predicting Signed Distance Maps", AAAI 2020.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    if mask.all():
        return np.full(mask.shape, -1, np.float32)
    inside = distance_transform_edt(mask)
    outside = distance_transform_edt(~mask)
    distance = outside / outside.max() - inside / inside.max()
    distance[find_boundaries(mask, mode="inner")] = 0
    return distance.astype(np.float32)


def signed_distances(labels: Tensor, num_classes: int) -> Tensor:
    """Return the signed distance maps of every foreground class.

    Args:
        labels: (B, W, H, D), whole numbers.
        num_classes: C, background included.

    Returns:
        (B, C − 1, W, H, D) float32 on the labels' device.
    """
    arrays = labels.cpu().numpy()
    maps = [[signed_distance(item == c) for c in range(1, num_classes)] for item in arrays]
    return torch.from_numpy(np.asarray(maps)).to(labels.device)
