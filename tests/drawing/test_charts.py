"""Line charts: as PNG, and as SVG for a page."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from semisam_o1.drawing.figures import (
    MAX_POINTS,
    Chart,
    Curve,
    chart_svg,
    dice_range,
    draw_curves,
    loss_chart,
    validation_chart,
)

STEPS = [
    *({"step": t, "round": 1 + t // 5, "loss/total": 1 / (t + 1)} for t in range(10)),
    *(
        {"step": t, "round": 1, "validation/dice": 0.5, "validation/dice_class1": 0.4, "validation/dice_class2": 0.6}
        for t in (4, 9)
    ),
]


def test_rounds_and_classes_become_curves() -> None:
    loss, scores = loss_chart(STEPS), validation_chart(STEPS, lambda c: f"organ {c}")
    assert [curve.name for curve in loss.legend] == ["round 1", "round 2"]
    assert [(curve.name, list(curve.y)) for curve in scores.curves] == [
        ("organ 1", [0.4, 0.4]),
        ("organ 2", [0.6, 0.6]),
        ("mean", [0.5, 0.5]),
    ]
    assert validation_chart([]).curves == []
    assert loss_chart([]).curves == []


def test_axes_of_dice_show_the_range_of_the_values() -> None:
    assert validation_chart(STEPS).y_range == pytest.approx((0.38, 0.62))
    assert validation_chart([]).y_range is None
    flat, full = Curve("a", [1, 2], [0.9, 0.9], "#d55e00"), Curve("b", [1, 2], [0.0, 1.0], "#d55e00")
    assert dice_range([flat]) == pytest.approx((0.88, 0.92))
    assert dice_range([flat, full]) == (0, 1)


def test_curves_are_drawn_as_png(tmp_path: Path) -> None:
    for name, steps in (("all.png", STEPS), ("none.png", []), ("one.png", STEPS[:1])):
        draw_curves(steps, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 3


def test_svg_is_small_and_takes_the_colors_of_the_page() -> None:
    raw = Curve("a", range(15000), np.random.default_rng(0).random(15000), "#1c2430")
    svg = chart_svg(Chart("long", [raw]))
    assert len(svg) < 10000
    assert "#1c2430" not in svg and "stroke: var(--ink)" in svg
    assert "http" not in svg and "url(" not in svg
    points = [path.get("d").count("L") for path in ElementTree.fromstring(svg).iter("path")]
    assert max(points) <= MAX_POINTS


def test_marks_tell_their_values() -> None:
    svg = chart_svg(Chart("flat", [Curve("$a_$<b>", [3], [0.123456], "#d55e00")], "round"))
    assert "NaN" not in svg and "nan" not in svg
    titles = [title.text for title in ElementTree.fromstring(svg).iter("title")]
    assert titles == ["$a_$<b>, round 3: 0.1235"]


def test_markup_in_names_is_text() -> None:
    svg = chart_svg(Chart("<b>&", [Curve('"><script>', [0, 1], [0, 1], "#d55e00")], '"<x>'))
    assert "<script>" not in svg and "<x>" not in svg
    assert ElementTree.fromstring(svg).get("aria-label") == "<b>&"


def test_loss_has_its_running_mean() -> None:
    raw, mean = loss_chart([{"step": t, "round": 1, "loss/total": float(t)} for t in range(100)]).curves
    assert (len(raw.x), raw.faint) == (100, True)
    assert (mean.x[0], mean.y[0], mean.x[-1], mean.y[-1]) == (1, 0.5, 99, 98.5)
