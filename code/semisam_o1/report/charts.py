"""Line charts as SVG, drawn for a page: their colors and text follow its style sheet, light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40
MAX_POINTS = 240  # of a line; more are averaged


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        x, y: the points.
        color: a number that the style sheet knows as ``--line-N``.
        marks: show every point.
        faint: the raw values behind a smoothed line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: int
    marks: bool = False
    faint: bool = False


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_range: tuple[float, float] | None = None,
    whole_x: bool = False,
) -> str:
    """Return a figure with a legend; lines without a point are left out.

    Args:
        y_range: lowest and highest value shown; None takes those of the lines.
        whole_x: mark whole numbers only.
    """
    lines = [line for line in lines if len(line.y)]
    if not lines:
        return ""
    xs = np.concatenate([np.asarray(line.x, float) for line in lines])
    ys = np.concatenate([np.asarray(line.y, float) for line in lines])
    x_ticks = _ticks(float(xs.min()), float(xs.max()), 6, whole_x)
    y_ticks = _ticks(*(y_range or (float(ys.min()), float(ys.max()))), 5)
    x_low, x_high = float(xs.min()), max(float(xs.max()), float(xs.min()) + 1e-9)
    if whole_x:
        x_low, x_high = x_low - 0.25, x_high + 0.25
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (min(max(y, y_low), y_high) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return right, down

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            x, _ = place(tick, y_low)
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    for line in lines:
        x, y = _thin(np.asarray(line.x, float), np.asarray(line.y, float))
        points = [place(*point) for point in zip(x.tolist(), y.tolist(), strict=True)]
        path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        faint = " faint" if line.faint else ""
        parts.append(f'<path class="line{faint}" style="stroke:var(--line-{line.color})" d="{path}"/>')
        if line.marks:
            for (px, py), vx, vy in zip(points, x, y, strict=True):
                parts.append(
                    f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" style="fill:var(--line-{line.color})">'
                    f"<title>{escape(line.name)}, {escape(x_label)} {_number(vx)}: {vy:.4f}</title></circle>"
                )
    parts.append("</svg>")
    keys = "".join(
        f'<li><span class="key" style="background:var(--line-{line.color})"></span>{escape(line.name)}</li>'
        for line in lines
        if not line.faint
    )
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{"".join(parts)}<ul>{keys}</ul></figure>'


def smooth(values: Sequence[float]) -> np.ndarray:
    """Return the running mean over a fiftieth of the values, as long as they are."""
    array = np.asarray(values, float)
    window = max(1, len(array) // 50)
    sums = np.cumsum(np.concatenate([[0.0], array]))
    ends = np.arange(1, len(array) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(x) <= MAX_POINTS:
        return x, y
    edges = np.linspace(0, len(x), MAX_POINTS + 1).astype(int)
    counts = np.diff(edges)
    return np.add.reduceat(x, edges[:-1]) / counts, np.add.reduceat(y, edges[:-1]) / counts


def _ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """Return about ``count`` round numbers that enclose low … high."""
    span = high - low if high > low else max(abs(high), 1e-3) * 0.2
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    step = max(1.0, round(step)) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span if high <= low else high) / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10000 and value % 100 == 0 else f"{value:.4g}"
