"""Figures as PNG files: their colors and text settings, and slices with outlined labels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from semisam_o1.core.atomic_io import replacing
from semisam_o1.drawing.outlines import gray_values, largest_slice, polygons

# After Okabe and Ito, "Color Universal Design", 2008; darkened or lightened to a contrast of at least 3 with both white
# and black, so that a class keeps its color on a light page, on a dark page and on a scan.
CLASS_COLORS = ("#d55e00", "#1f93d6", "#009e73", "#d15fa0", "#9a8700", "#8b6fd6", "#c78500")
INK, SOFT, RULE = "#1c2430", "#5a6675", "#d9dee5"  # lines, text and grid lines
TEXT = {"text.parse_math": False, "text.color": INK, "font.family": "DejaVu Sans"}  # a name may hold a dollar sign


def class_color(c: int) -> str:
    """Return the color of class ``c``, counted from 1."""
    return CLASS_COLORS[(c - 1) % len(CLASS_COLORS)]


@contextlib.contextmanager
def png_figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure of a size in inches and write it as PNG; raises WriteError if it cannot be written."""
    with matplotlib.rc_context(TEXT):
        figure = Figure((width, height), layout="constrained")
        yield figure
        with replacing(path) as partial:
            figure.savefig(partial, format="png", dpi=110)


def draw_labels(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray | None, Sequence[np.ndarray]]], titles: Sequence[str], path: Path
) -> None:
    """Draw labels of a few volumes, such as those of the rounds, a row per volume.

    Args:
        rows: (name, image (W, H, D), true label or None, labels); drawn is the slice along D that shows most of them.
        titles: titles of the labels' columns.

    Raises:
        WriteError: as ``png_figure`` does.
    """
    columns = 2 + len(titles)
    with png_figure(path, 2.4 * columns, 2.6 * len(rows)) as figure:
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, (name, image, truth, labels) in zip(axes, rows, strict=True):
            z = largest_slice(truth if truth is not None and truth.any() else labels[-1])
            short_name = name if len(name) < 24 else f"{name[:21]}…"
            headings = (short_name, "no true label" if truth is None else "true label", *titles)
            for axis, heading, label in zip(line, headings, (None, truth, *labels), strict=True):
                width, height = image.shape[:2]
                gray = gray_values(image[..., z]).T
                axis.imshow(gray, cmap="gray", interpolation="nearest", extent=(0, width, height, 0))
                for c, points in () if label is None else polygons(label[..., z]):
                    axis.plot(*points.T, color=class_color(c), linewidth=1.2)
                axis.set(xlim=(0, width), ylim=(height, 0))
                axis.set_title(heading, fontsize=9)
                axis.set_axis_off()
