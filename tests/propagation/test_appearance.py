"""Propagated labels move to the borders that intensities show."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from balls import dice, scan
from semisam_o1.propagation.appearance import adapt


def shares(label: np.ndarray) -> np.ndarray:
    return np.stack([label == c for c in range(3)]).astype(np.float32)


def test_borders_move_to_where_intensities_change() -> None:
    image, label = scan()
    misplaced = np.stack([ndimage.shift(part, (1, 0, 1), order=1) for part in shares(label)])
    misplaced[0] = 1 - misplaced[1:].sum(axis=0)
    adapted = adapt(misplaced, image, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(adapted.sum(axis=0), 1, atol=1e-5)
    for c in (1, 2):
        assert dice(adapted.argmax(0), label, c) > dice(misplaced.argmax(0), label, c) + 0.03


def test_nothing_is_found_where_nothing_was_propagated() -> None:
    image, label = scan()
    background = shares(np.zeros_like(label))
    np.testing.assert_array_equal(adapt(background, image, (1.0, 1.0, 1.0)), background)
    far = np.linalg.norm(np.argwhere(label == 0) - np.array(label.shape) / 2, axis=1) > 14
    x, y, z = np.argwhere(label == 0)[far].T
    assert (adapt(shares(label), image, (1.0, 1.0, 1.0))[0, x, y, z] == 1).all()
