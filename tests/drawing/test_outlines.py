"""Outlines of labels."""

from __future__ import annotations

import numpy as np

from semisam_o1.drawing.outlines import largest_slice, overlay, polygons, svg_path

SQUARE = np.array([[0, 0, 0], [0, 1, 1], [0, 1, 1], [0, 0, 0]], np.uint8)


def test_polygons_run_between_pixels_and_close_at_the_border() -> None:
    ((c, points),) = polygons(SQUARE)
    assert c == 1
    assert np.array_equal(points[0], points[-1])
    assert (points.min(axis=0) == (1, 1)).all() and (points.max(axis=0) == (3, 3)).all()


def test_every_class_has_its_outline_in_the_unit_of_the_pixels() -> None:
    label = np.array([[1, 1, 2, 2]] * 3, np.uint8)
    assert [c for c, _ in polygons(label)] == [1, 2]
    assert svg_path(label, (2.0, 1.5)).count("Z") == 2
    assert svg_path(label * 0, (1, 1)) == ""
    numbers = np.array([point.split() for point in svg_path(SQUARE, (2, 10))[1:-1].split("L")], float)
    assert numbers.max(axis=0).tolist() == [6, 30]


def test_largest_slice() -> None:
    label = np.zeros((3, 4, 5), np.uint8)
    label[1:, 2, 3] = 2
    assert [largest_slice(label, axis) for axis in range(3)] == [1, 2, 3]


def test_overlay_outlines_label_and_prediction() -> None:
    label = np.zeros((6, 8), np.uint8)
    label[2:4, 2:6] = 1
    pixels = overlay(np.linspace(0, 1, 48).reshape(6, 8), label, np.roll(label, 1, axis=1))
    assert pixels.shape == (3, 240, 320)  # small slices are enlarged
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    blue = (pixels[2] > 0.99) & (pixels[0] == 0)
    orange = (pixels[0] > 0.99) & (pixels[2] == 0)
    assert blue.any()
    assert orange.any()
    inside = label.repeat(40, 0).repeat(40, 1) > 0
    assert not (blue & ~inside).any()
    assert (blue & inside).sum() < 0.1 * inside.sum()
