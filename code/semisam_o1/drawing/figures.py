"""Figures of a run: slices with outlined labels as PNG, and line charts as PNG and, for the report, as SVG."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from semisam_o1.core.atomic_io import replacing
from semisam_o1.drawing.outlines import class_color, gray_values, largest_slice, polygons

INK, SOFT, RULE = "#1c2430", "#5a6675", "#d9dee5"  # lines, text and grid lines
TEXT = {"text.parse_math": False, "text.color": INK, "font.family": "DejaVu Sans"}  # a name may hold a dollar sign
MAX_POINTS = 240  # of a curve; more are averaged
MAX_MARKS = 80  # points of a curve up to which each one is marked
SVG_SIZE = (480, 270)  # units of the view box
MIN_DICE_MARGIN = 0.02  # of an axis below the lowest and above the highest Dice; noise is not enlarged beyond it
PAGE_COLORS = {INK: "var(--ink)", SOFT: "var(--soft)", RULE: "var(--rule)"}  # the page's own, light or dark
SVG_CLEANUP = {
    r' xmlns(:xlink)?="[^"]*"': "",
    r"xlink:href": "href",
    r' (clip-path|transform)="[^"]*"': "",  # nothing is clipped, and rotations are by 0
    r' id="(?!curve_)[\w.]+_\d+"': "",  # unused, and the same in every chart
    r'(\.\d\d)\d+(?=[\s"])': r"\1",
    **PAGE_COLORS,
}


@contextlib.contextmanager
def png_figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure of a size in inches and write it as PNG; raises WriteError if it cannot be written."""
    with matplotlib.rc_context(TEXT):
        figure = Figure((width, height), layout="constrained")
        yield figure
        with replacing(path) as partial:
            figure.savefig(partial, format="png", dpi=110)


def draw_labels(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray | None, Sequence[np.ndarray]]],
    titles: Sequence[str],
    path: Path,
    class_names: Mapping[int, str] | None = None,
) -> None:
    """Draw labels of a few volumes, such as those of the rounds, a row per volume.

    Args:
        rows: (name, image (W, H, D), true label or None, labels); drawn is the slice along D that shows most of them.
        titles: titles of the labels' columns.
        class_names: names of the foreground classes, for a key to the colors.

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
        if class_names:
            lines = [Line2D([], [], color=class_color(c), label=name) for c, name in class_names.items()]
            figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), columns), frameon=False)


@dataclass(frozen=True)
class Curve:
    """One line of a chart; a faint one is thin and not in the legend, as raw values behind their running mean are."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over a common axis that counts iterations or rounds; without a range, the y axis fits the curves."""

    title: str
    curves: Sequence[Curve]
    x_label: str = "iteration, over all rounds"
    y_range: tuple[float, float] | None = None

    @property
    def legend(self) -> list[Curve]:
        return [curve for curve in self.curves if len(curve.x) and not curve.faint]


def loss_chart(steps: Sequence[Mapping[str, Any]]) -> Chart:
    """Return every round's training loss in metrics.jsonl, and its running mean over a fiftieth of the round."""
    rows = [row for row in steps if "loss/total" in row]
    curves = []
    for number in dict.fromkeys(row["round"] for row in rows):
        x, y = np.array([(row["step"], row["loss/total"]) for row in rows if row["round"] == number], float).T
        window = max(1, len(y) // 50)
        mean = np.convolve(y, np.full(window, 1 / window), mode="valid")
        raw = Curve(f"round {number}", x, y, class_color(number), faint=True)
        curves += [raw, replace(raw, x=x[window - 1 :], y=mean, faint=False)]
    return Chart("Training loss, and its running mean", curves)


def validation_chart(steps: Sequence[Mapping[str, Any]], class_name: Callable[[int], str] = "class {}".format) -> Chart:
    """Return the validation Dice of every class, and their mean if there are several."""
    scores = [row for row in steps if "validation/dice" in row]
    x = [row["step"] for row in scores]
    curves = []
    for c in range(1, sum(key.startswith("validation/dice_class") for key in scores[0]) + 1 if scores else 1):
        curves.append(Curve(class_name(c), x, [row[f"validation/dice_class{c}"] for row in scores], class_color(c)))
    if len(curves) > 1:
        curves.append(Curve("mean", x, [row["validation/dice"] for row in scores], INK))
    return Chart("Validation Dice", curves, y_range=dice_range(curves))


def dice_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Return the part of 0 … 1 that curves of Dice reach, with a margin; None where there is no value."""
    values = [value for curve in curves for value in curve.y]
    if not values:
        return None
    margin = max(0.1 * (max(values) - min(values)), MIN_DICE_MARGIN)
    return max(0.0, min(values) - margin), min(1.0, max(values) + margin)


def draw_curves(
    steps: Sequence[Mapping[str, Any]], path: Path, class_name: Callable[[int], str] = "class {}".format
) -> None:
    """Draw the training loss and the validation Dice of a run as PNG; raises WriteError as ``png_figure`` does."""
    charts = (loss_chart(steps), validation_chart(steps, class_name))
    with png_figure(path, 9, 7.5) as figure:
        for axis, chart in zip(figure.subplots(2, 1, sharex=True), charts, strict=True):
            _draw(axis, chart)
            axis.set_title(chart.title, loc="left")
            if chart.legend:
                axis.legend(frameon=False)


def chart_svg(chart: Chart) -> str:
    """Return a chart as SVG for a page: without its title and legend, in the page's colors, with values as tooltips."""
    settings = {"svg.fonttype": "none", "svg.hashsalt": chart.title, "font.size": 13}
    buffer = io.StringIO()
    with matplotlib.rc_context(TEXT | settings):
        figure = Figure([side / 72 for side in SVG_SIZE], layout="constrained")
        _draw(figure.subplots(), chart)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for pattern, replacement in SVG_CLEANUP.items():
        svg = re.sub(pattern, replacement, svg)
    root = ElementTree.fromstring(svg)
    root.attrib = {"viewBox": root.get("viewBox"), "role": "img", "aria-label": chart.title}
    root[:] = root.findall("g")  # leaves out a style sheet, which would hold for the whole page
    for group, curve in zip(root.iterfind(".//g[@id]"), chart.curves, strict=True):
        del group.attrib["id"]
        for mark, x, y in zip(group.iter("use"), curve.x, curve.y, strict=False):
            ElementTree.SubElement(mark, "title").text = f"{curve.name}, {chart.x_label} {x:g}: {y:.4f}"
    return ElementTree.tostring(root, encoding="unicode")


def _draw(axis: Axes, chart: Chart) -> None:
    for i, curve in enumerate(chart.curves):
        x, y = _thinned(curve.x), _thinned(curve.y)
        style = {"linewidth": 1, "alpha": 0.3, "label": "_"} if curve.faint else {"linewidth": 2.2, "label": curve.name}
        marker = "o" if len(x) <= MAX_MARKS and not curve.faint else ""
        axis.plot(x, y, color=curve.color, marker=marker, clip_on=False, gid=f"curve_{i}", **style)
    axis.grid(axis="y", color=RULE)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, labelcolor=SOFT)
    axis.set_xlabel(chart.x_label, loc="right", color=SOFT)
    axis.locator_params(axis="x", nbins=7, integer=True, min_n_ticks=1)
    axis.locator_params(axis="y", nbins=6)
    if chart.y_range:
        axis.set_ylim(chart.y_range)


def _thinned(values: Sequence[float]) -> np.ndarray:
    """Return the means of up to ``MAX_POINTS`` stretches of equal length."""
    edges = np.linspace(0, len(values), min(len(values), MAX_POINTS) + 1).astype(int)
    return np.add.reduceat(np.asarray(values, float), edges[:-1]) / np.diff(edges)
