"""Masks that were drawn on some slices only, with the slices that were filled between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from semisam_o1.drawing.figures import png_figure
from semisam_o1.drawing.outlines import class_color, gray_values, polygons

COLUMNS, ROWS = 6, 3


def draw_filled(image: np.ndarray, label: np.ndarray, drawn: Sequence[int], axis: int, path: Path) -> None:
    """Draw consecutive slices around the middle of a mask: drawn ones with solid outlines, filled ones with dashed.

    Args:
        image: (W, H, D).
        label: (W, H, D) with the filled slices.
        drawn: indices of the drawn slices along ``axis``.

    Raises:
        WriteError: if the figure cannot be written.
    """
    images, labels = (np.moveaxis(array, axis, -1) for array in (image, label))
    count = min(COLUMNS * ROWS, images.shape[-1])
    first = min(max(int(drawn[len(drawn) // 2]) - count // 2, 0), images.shape[-1] - count)
    with png_figure(path, 2.2 * COLUMNS, 2.4 * -(-count // COLUMNS)) as figure:
        places = figure.subplots(-(-count // COLUMNS), COLUMNS, squeeze=False).ravel()
        for place in places:
            place.set_axis_off()
        for place, z in zip(places, range(first, first + count), strict=False):
            width, height = images.shape[:2]
            gray = gray_values(images[..., z]).T
            place.imshow(gray, cmap="gray", interpolation="nearest", extent=(0, width, height, 0))
            for c, points in polygons(labels[..., z]):
                place.plot(*points.T, color=class_color(c), linewidth=1.4, linestyle="-" if z in drawn else "--")
            place.set(xlim=(0, width), ylim=(height, 0))
            place.set_title(f"slice {z}, {'drawn' if z in drawn else 'filled'}", fontsize=9)
