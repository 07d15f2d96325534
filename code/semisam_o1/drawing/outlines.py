"""Outlines of labels in the colors of their classes: as polygons, as paths of an SVG, and in the pixels of a slice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from skimage.measure import approximate_polygon, find_contours
from skimage.segmentation import find_boundaries

# After Okabe and Ito, "Color Universal Design", 2008; darkened or lightened to a contrast of at least 3 with both white
# and black, so that a class keeps its color on a light page, on a dark page and on a scan.
CLASS_COLORS = ("#d55e00", "#1f93d6", "#009e73", "#d15fa0", "#9a8700", "#8b6fd6", "#c78500")
OVERLAY_SIDE = 320  # least number of pixels of the longer side of an overlay
DASH = 4  # pixels of an overlay that a dash, and a gap, takes
TOLERANCE = 0.4  # pixels that the path of an SVG may stray from the outline; a single pixel keeps its shape
MAX_COUNTED = 2_000_000  # voxels that percentiles are taken of
Contours = Iterable[tuple[int, np.ndarray]]
"""Class and points (n, 2) of the outlines of a slice."""


def class_color(c: int) -> str:
    """Return the color of class ``c``, counted from 1."""
    return CLASS_COLORS[(c - 1) % len(CLASS_COLORS)]


def polygons(label: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (class, points (n, 2)) of every outline of a slice (W, H), the last point equal to the first.

    Pixel (i, j) covers i … i + 1 and j … j + 1.
    """
    padded = np.pad(label, 1)
    for c in np.unique(label[label > 0]):
        for points in find_contours((padded == c).astype(np.float32), 0.5):
            yield int(c), points - 0.5


def svg_paths(outlines: Contours, tolerance: float = TOLERANCE) -> dict[int, str]:
    """Return the outlines of a slice by class, as short path data in units of half a pixel.

    Args:
        outlines: as ``polygons`` yields them.
        tolerance: pixels that a path may stray from the outline; what is smaller is left out.
    """
    paths: dict[int, str] = {}
    for c, points in outlines:
        if np.ptp(points, axis=0).max() <= tolerance:
            continue
        corners = np.rint(2 * approximate_polygon(points, tolerance)).astype(int)
        if len(corners) < 4:
            continue
        steps = " ".join(f"{x} {y}" for x, y in np.diff(corners, axis=0)[:-1]).replace(" -", "-")
        paths[c] = f"{paths.get(c, '')}M{corners[0][0]} {corners[0][1]}l{steps}z"
    return paths


def overlay(image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return a slice (rows, columns) as RGB (3, ...): each class outlined in its color.

    The label has a solid line along its inner border, the prediction a dashed one along its outer border, so that both
    are seen where they agree. Small slices are enlarged first, so that an outline does not cover the structure.
    """
    factor = -(-OVERLAY_SIDE // max(image.shape))
    image, label, prediction = (a.repeat(factor, 0).repeat(factor, 1) for a in (image, label, prediction))
    pixels = np.stack([gray_values(image)] * 3).astype(np.float32)
    rows, columns = np.indices(image.shape)
    dashes = (rows + columns) // DASH % 2 == 0
    for labels, mode, drawn in ((prediction, "outer", dashes), (label, "inner", True)):
        for c in np.unique(labels[labels > 0]):
            color = np.array([int(class_color(int(c))[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)
            pixels[:, find_boundaries(labels == c, mode=mode) & drawn] = color[:, None]
    return pixels


def gray_limits(image: np.ndarray) -> tuple[float, float]:
    """Return the first and the 99th percentile of intensities, of a large image those of some of its voxels."""
    low, high = np.percentile(image.ravel()[:: 1 + image.size // MAX_COUNTED], (1, 99))
    return float(low), float(high)


def gray_values(image: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Return intensities as gray values from 0 (the lower limit and below) to 1 (the upper one and above).

    Args:
        limits: None for those of ``gray_limits``.
    """
    low, high = gray_limits(image) if limits is None else limits
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1)


def largest_slice(label: np.ndarray, axis: int = 2) -> int:
    """Return the index along an axis of the slice with the most foreground."""
    return int((label > 0).sum(axis=tuple({0, 1, 2} - {axis})).argmax())
