"""Outlines of labels: as polygons, as the path of an SVG, and in the pixels of a slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from skimage.measure import find_contours
from skimage.segmentation import find_boundaries

OVERLAY_SIDE = 320  # least number of pixels of the longer side of an overlay
LABEL_COLOR, PREDICTION_COLOR = (0.0, 0.6, 1.0), (1.0, 0.6, 0.0)


def polygons(label: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (class, points (n, 2)) of every outline of a slice (W, H), the last point equal to the first.

    Pixel (i, j) covers i … i + 1 and j … j + 1.
    """
    padded = np.pad(label, 1)
    for c in np.unique(label[label > 0]):
        for points in find_contours((padded == c).astype(np.float32), 0.5):
            yield int(c), points - 0.5


def svg_path(label: np.ndarray, pixel: Sequence[float]) -> str:
    """Return the outlines of a slice (W, H) as path data, for pixels of a size (width, height)."""
    lines = ("L".join(f"{x:.1f} {y:.1f}" for x, y in points[:-1] * pixel) for _, points in polygons(label))
    return "".join(f"M{line}Z" for line in lines)


def overlay(image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return a slice (rows, columns) as RGB (3, ...): label outlined in blue, prediction in orange, both in white.

    Small slices are enlarged first, so that an outline does not cover the structure.
    """
    factor = -(-OVERLAY_SIDE // max(image.shape))
    image, label, prediction = (a.repeat(factor, 0).repeat(factor, 1) for a in (image, label, prediction))
    pixels = np.stack([gray_values(image)] * 3).astype(np.float32)
    edges = [find_boundaries(a, mode="inner") for a in (label, prediction)]
    pixels[:, edges[0] | edges[1]] = 0
    for edge, color in zip(edges, (LABEL_COLOR, PREDICTION_COLOR), strict=True):
        pixels[:, edge] = np.minimum(pixels[:, edge] + np.array(color)[:, None], 1)
    return pixels


def gray_values(image: np.ndarray) -> np.ndarray:
    """Return intensities as gray values from 0 (first percentile and below) to 1 (99th percentile and above)."""
    low, high = np.percentile(image, (1, 99))
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1)


def largest_slice(label: np.ndarray, axis: int = 2) -> int:
    """Return the index along an axis of the slice with the most foreground."""
    return int((label > 0).sum(axis=tuple({0, 1, 2} - {axis})).argmax())
