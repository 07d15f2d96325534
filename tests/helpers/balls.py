"""Volumes that show two balls, and how well a label map finds them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def scan(
    shape: tuple[int, int, int] = (26, 30, 22), shift: tuple[int, int, int] = (0, 0, 0), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A bright and a dark ball in smooth noise: image, label with classes 1 and 2."""
    x, y, z = (axis - size / 2 - move for axis, size, move in zip(np.indices(shape), shape, shift, strict=True))
    label = np.zeros(shape, np.uint8)
    label[x**2 + (y + 5) ** 2 + z**2 < 25] = 1
    label[x**2 + (y - 5) ** 2 + z**2 < 16] = 2
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1)
    return (np.array([0, 1, -1])[label] + 0.5 * texture).astype(np.float32), label


def dice(prediction: np.ndarray, truth: np.ndarray, index: int) -> float:
    overlap = ((prediction == index) & (truth == index)).sum()
    return 2 * overlap / ((prediction == index).sum() + (truth == index).sum())
