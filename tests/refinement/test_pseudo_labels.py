"""The uncertainty of class probabilities, and the largest component of each class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semisam_o1.data.dataset.prediction import Prediction
from semisam_o1.refinement.pseudo_labels import class_balanced, largest_components, mean_entropy, without_islands


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_entropy_of_uniform_probabilities_is_the_logarithm_of_the_classes(classes: int) -> None:
    assert mean_entropy(torch.full((classes, 3, 4, 5), 1 / classes)) == pytest.approx(math.log(classes))


def test_entropy_of_certainty_is_0_and_means_are_taken_over_voxels() -> None:
    certain = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)
    assert mean_entropy(certain) == 0
    assert mean_entropy(torch.cat([certain, torch.full((2, 1, 1, 1), 0.5)], dim=3)) == pytest.approx(math.log(2) / 2)


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


def test_weights_have_the_same_mean_for_every_class() -> None:
    label = np.array([0, 0, 0, 0, 1, 1, 3, 3], np.uint8).reshape(2, 2, 2)
    confidence = np.array([250, 250, 200, 100, 100, 60, 250, 150], np.uint8).reshape(2, 2, 2)
    weights = class_balanced(confidence, label, 5)
    assert weights.dtype == np.uint8
    assert weights.ravel().tolist() == [100, 100, 80, 40, 100, 60, 100, 60]


def test_a_removed_island_is_no_sure_background() -> None:
    foreground = torch.zeros(7, 3, 4)
    foreground[:3], foreground[6, 0, 0] = 0.9, 0.8
    probabilities = torch.stack([1 - foreground, foreground])
    alone = without_islands(Prediction.from_probabilities(probabilities), probabilities, 2)
    assert alone.label.sum() == 36
    assert (alone.confidence[0, 0, 0], alone.confidence[6, 0, 0], alone.confidence[5, 0, 0]) == (230, 51, 255)
