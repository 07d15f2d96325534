"""The largest connected part of each class."""

from __future__ import annotations

import numpy as np

from semisam_o1.refinement.components import largest_components


def test_only_the_largest_part_of_each_class_stays() -> None:
    label = np.zeros((7, 5, 4), np.uint8)
    label[0:3, 0:2] = 1
    label[4, 4, 3] = 1  # apart
    label[3, 2, 0] = 1  # touches the large part at an edge only
    label[5:7, 0:2, 0:2] = 2
    label[0, 4, 0] = 2
    expected = label.copy()
    expected[4, 4, 3] = expected[3, 2, 0] = expected[0, 4, 0] = 0
    before = label.copy()
    np.testing.assert_array_equal(largest_components(label, 4), expected)
    np.testing.assert_array_equal(label, before)


def test_an_empty_map_stays_empty() -> None:
    assert not largest_components(np.zeros((3, 2, 4), np.uint8), 3).any()
