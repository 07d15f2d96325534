"""Signed distance maps: recorded ones and the plain formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt

from golden_inputs import golden
from semisam_o1.data.distances import signed_distance, signed_distances


def test_maps_match_the_recorded_ones() -> None:
    recorded = golden("sdf.npz")
    maps = signed_distances(torch.from_numpy(recorded["label"]), 2)
    assert maps.shape == (3, 1, 20, 24, 16)
    np.testing.assert_allclose(maps[:, 0], recorded["sdf"], atol=1e-6, rtol=0)


def test_map_is_the_plain_formula() -> None:
    mask = np.zeros((12, 9, 14), bool)
    mask[2:9, 1:8, 3:12] = True
    mask[5:8, 0:2, 10:14] = True
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    expected = outside / outside.max() - inside / inside.max()
    # A voxel of the object with a neighbour in the background; the border of the volume is none.
    expected[mask & ~binary_erosion(mask, border_value=1)] = 0
    distance = signed_distance(mask)
    assert distance.dtype == np.float32
    np.testing.assert_allclose(distance, expected, atol=1e-6)
    assert distance.min() == -1
    assert distance.max() == 1


def test_a_line_by_hand() -> None:
    mask = np.array([0, 0, 1, 1, 1, 1, 1, 0]).astype(bool).reshape(1, 8, 1)
    assert signed_distance(mask).ravel().tolist() == pytest.approx([1, 0.5, 0, -2 / 3, -1, -2 / 3, 0, 0.5])


def test_empty_and_full_masks_are_finite() -> None:
    shape = (3, 4, 5)
    assert np.array_equal(signed_distance(np.zeros(shape, bool)), np.zeros(shape))
    assert np.array_equal(signed_distance(np.ones(shape, bool)), -np.ones(shape))


def test_every_foreground_class_has_a_map_of_its_own() -> None:
    labels = torch.from_numpy(np.random.RandomState(1).randint(0, 4, (2, 5, 6, 7)).astype(np.uint8))
    maps = signed_distances(labels, 4)
    assert maps.shape == (2, 3, 5, 6, 7)
    assert maps.dtype == torch.float32
    for item in range(2):
        for c in (1, 2, 3):
            expected = signed_distance(labels[item].numpy() == c)
            np.testing.assert_array_equal(maps[item, c - 1], expected)
