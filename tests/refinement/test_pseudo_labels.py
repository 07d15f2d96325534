"""The uncertainty of class probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from semisam_o1.refinement.pseudo_labels import mean_entropy


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_entropy_of_uniform_probabilities_is_the_logarithm_of_the_classes(classes: int) -> None:
    assert mean_entropy(torch.full((classes, 3, 4, 5), 1 / classes)) == pytest.approx(math.log(classes))


def test_entropy_of_certainty_is_0_and_means_are_taken_over_voxels() -> None:
    certain = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)
    assert mean_entropy(certain) == 0
    assert mean_entropy(torch.cat([certain, torch.full((2, 1, 1, 1), 0.5)], dim=3)) == pytest.approx(math.log(2) / 2)
