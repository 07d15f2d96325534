"""Colors and text settings of every figure, and figures as PNG files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from semisam_o1.core.atomic_io import replacing

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
    """Yield a figure of a size in inches; what is drawn on it is written as PNG, complete or not at all.

    Raises:
        WriteError: if it cannot be written.
    """
    with matplotlib.rc_context(TEXT):
        figure = Figure((width, height), layout="constrained")
        yield figure
        with replacing(path) as partial:
            figure.savefig(partial, format="png", dpi=110)
