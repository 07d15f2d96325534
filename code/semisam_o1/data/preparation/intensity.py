"""Intensities made comparable: z-scores for MRI, a window for CT."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PERCENTILES = (0.5, 99.5)
WINDOWS = {  # Hounsfield units, low and high
    "abdomen": (-160.0, 240.0),
    "mediastinum": (-125.0, 275.0),
    "lung": (-1000.0, 400.0),
    "bone": (-450.0, 1050.0),
    "brain": (0.0, 80.0),
}


def normalize(image: np.ndarray, nonzero: bool = False) -> np.ndarray:
    """Clip to the 0.5 and 99.5 percentiles, subtract the mean and divide by the standard deviation.

    Args:
        image: (W, H, D), any real type.
        nonzero: take percentiles, mean and deviation over the voxels that are not 0, as for scans whose
            surroundings were set to 0 (skull-stripped brains). All voxels are changed alike.

    Returns:
        float32 (W, H, D); over the voxels that count, mean 0 and standard deviation 1.

    Raises:
        ValueError: if a value is not finite, or nothing varies between the percentiles.
    """
    values = _finite(image)
    counted = values[values != 0] if nonzero else values
    if not counted.size:
        raise ValueError("is constant (every voxel is 0)")
    low, high = np.percentile(counted, PERCENTILES)
    np.clip(values, low, high, out=values)
    counted = np.clip(counted, low, high) if nonzero else values
    mean, deviation = counted.mean(dtype=np.float64), counted.std(dtype=np.float64)
    if low == high or deviation == 0:
        raise ValueError(f"is constant (all but the outermost voxels are {low:g})")
    values -= np.float32(mean)
    values /= np.float32(deviation)
    return values


def apply_window(image: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Clip to a window and scale it to −1 … 1, the same for every scan, so that units keep their meaning.

    Args:
        image: (W, H, D) in Hounsfield units.
        window: low and high.

    Raises:
        ValueError: if a value is not finite, or nothing varies within the window.
    """
    low, high = window
    values = np.clip(_finite(image), np.float32(low), np.float32(high))
    if values.min() == values.max():
        raise ValueError(f"shows nothing within the window {low:g} to {high:g} (all voxels lie on one side of it)")
    return (values - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)


def unchanged(image: np.ndarray) -> np.ndarray:
    """Return the values as float32.

    Raises:
        ValueError: if a value is not finite, or all are the same.
    """
    values = _finite(image)
    if values.min() == values.max():
        raise ValueError(f"is constant (every voxel is {values.flat[0]:g})")
    return values


def _finite(image: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = np.array(image, dtype=np.float32, order="C")
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not finite (NaN or infinite)")
    return values
