"""Scans cropped, and their label values replaced."""

from __future__ import annotations

import numpy as np

from semisam_o1.data.dataset.volumes import Geometry, Grid, Volume
from semisam_o1.data.preparation.settings import Preparation
from semisam_o1.data.preparation.transform import body_box, prepare, remap

GRID = Grid((40, 30, 20), Geometry((1.0, 1.0, 2.0), known=True))


def phantom() -> np.ndarray:
    """Return CT-like values: air, a body, and a small table below it."""
    x, y, _ = np.indices(GRID.size)
    image = np.full(GRID.size, -1000, np.int16)
    image[((x - 20) / 11) ** 2 + ((y - 13) / 8) ** 2 < 1] = 40
    image[5:35, 27:29, :] = 60
    return image + np.random.default_rng(0).integers(-9, 10, GRID.size).astype(np.int16)


def scan(label: np.ndarray | None = None) -> Volume:
    return Volume("a", phantom(), label, GRID.geometry)


def test_body_is_found_and_the_margin_is_in_millimeters() -> None:
    box = body_box(phantom())
    assert np.abs(np.subtract([part.start for part in box], (10, 6, 0))).max() <= 2
    assert np.abs(np.subtract([part.stop for part in box], (31, 21, 20))).max() <= 2
    assert body_box(np.ones((3, 4, 5))) == (slice(0, 3), slice(0, 4), slice(0, 5))
    settings = Preparation(orientation="keep", crop=(20, 22, 10, 12, 10, 11), margin=4, intensity="keep")
    volume = prepare(scan(), settings)
    np.testing.assert_array_equal(volume.image, phantom()[16:27, 6:17, 8:14])
    assert volume.geometry.origin == (16.0, 6.0, 16.0)
    assert volume.original == GRID


def test_crop_never_looks_at_the_label() -> None:
    label = np.zeros(GRID.size, np.uint8)
    label[0, 0, 0] = 1
    settings = Preparation(crop="body", margin=2, intensity="window", window=(-160, 240))
    with_label = prepare(scan(label), settings)
    without = prepare(scan(), settings)
    np.testing.assert_array_equal(with_label.image, without.image)
    assert with_label.image.min() == -1
    assert not with_label.label.any()


def test_label_values_are_replaced() -> None:
    label = np.array([0, 1, 2, 3, 4], np.uint8).reshape(5, 1, 1)
    assert remap(label, Preparation(labels={3: 1, 4: 2})).ravel().tolist() == [0, 1, 2, 1, 2]
    assert remap(label, Preparation(labels={3: 1, 4: 2}, other_labels=0)).ravel().tolist() == [0, 0, 0, 1, 2]
    assert remap(label, Preparation(labels={0: 9}, other_labels=5)).ravel().tolist() == [9, 5, 5, 5, 5]
    assert remap(label, Preparation(other_labels=5)).ravel().tolist() == [0, 5, 5, 5, 5]
