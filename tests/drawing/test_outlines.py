"""Outlines of labels."""

from __future__ import annotations

import re

import numpy as np
import pytest

from semisam_o1.drawing.outlines import (
    class_color,
    gray_limits,
    gray_values,
    largest_slice,
    overlay,
    polygons,
    svg_paths,
)

SQUARE = np.array([[0, 0, 0], [0, 1, 1], [0, 1, 1], [0, 0, 0]], np.uint8)


def test_polygons_run_between_pixels_and_close_at_the_border() -> None:
    ((c, points),) = polygons(SQUARE)
    assert c == 1
    assert np.array_equal(points[0], points[-1])
    assert (points.min(axis=0) == (1, 1)).all() and (points.max(axis=0) == (3, 3)).all()


def corners(path: str) -> np.ndarray:
    """Return the points (n, 2) of a path with one outline, in pixels."""
    (start, steps), *others = re.findall(r"M([\d -]+)l([\d -]+)z", path)
    assert not others
    values = [[int(number) for number in re.findall(r"-?\d+", part)] for part in (start, steps)]
    return np.cumsum(np.reshape(values[0] + values[1], (-1, 2)), axis=0) / 2


def test_paths_of_every_class() -> None:
    label = np.array([[1, 1, 2, 2]] * 3, np.uint8)
    assert list(svg_paths(polygons(label))) == [1, 2]
    assert svg_paths(polygons(label * 0)) == {}
    assert svg_paths(polygons(np.eye(6, dtype=np.uint8)[::2]))[1].count("z") == 3
    points = corners(svg_paths(polygons(SQUARE))[1])
    assert (points.min(axis=0).tolist(), points.max(axis=0).tolist()) == ([1, 1], [3, 3])


def test_paths_are_short_and_close_to_the_outline() -> None:
    x, y = np.indices((120, 90))
    label = ((x - 60) ** 2 / 50**2 + (y - 45) ** 2 / 30**2 <= 1).astype(np.uint8)
    path, ((_, outline),) = svg_paths(polygons(label))[1], polygons(label)
    assert len(path) < 700
    points = corners(path)
    ends = np.roll(points, -1, axis=0) - points
    offsets = outline[:, None] - points
    along = np.clip((offsets * ends).sum(-1) / (ends**2).sum(-1), 0, 1)
    distances = np.linalg.norm(offsets - along[..., None] * ends, axis=-1).min(axis=1)
    assert distances.max() < 0.8


def test_largest_slice() -> None:
    label = np.zeros((3, 4, 5), np.uint8)
    label[1:, 2, 3] = 2
    assert [largest_slice(label, axis) for axis in range(3)] == [1, 2, 3]


def test_overlay_outlines_label_and_prediction_in_the_colors_of_the_classes() -> None:
    label = np.zeros((6, 8), np.uint8)
    label[2:4, 1:4], label[2:4, 4:7] = 1, 2
    pixels = overlay(np.linspace(0, 1, 48).reshape(6, 8), label, np.where(label == 2, 2, 0))
    assert pixels.shape == (3, 240, 320)  # small slices are enlarged
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    large = label.repeat(40, 0).repeat(40, 1)
    for c in (1, 2):
        color = [int(class_color(c)[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        drawn = np.isclose(pixels, np.reshape(color, (3, 1, 1)), atol=1e-3).all(axis=0)
        inside = (drawn & (large == c)).sum()
        assert inside == 2 * (80 + 120) - 4  # the label's line is whole
        outside = (drawn & (large != c)).sum()
        assert outside == 0 if c == 1 else 0.3 * inside < outside < 0.7 * inside  # the prediction's is dashed


def test_gray_values_of_a_slice_may_have_the_limits_of_its_volume() -> None:
    volume = np.arange(400.0, dtype=np.float32).reshape(10, 10, 4)
    limits = gray_limits(volume)
    assert limits == pytest.approx((3.99, 395.01))
    np.testing.assert_array_equal(gray_values(volume, limits)[..., 1], gray_values(volume[..., 1], limits))
    assert gray_values(volume[..., 1]).max() == 1 > gray_values(volume[:5, :, 1], limits).max()
