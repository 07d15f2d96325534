"""Labels are compared on the part of a scan that has foreground: the same figures, sooner."""

from __future__ import annotations

import numpy as np
import pytest

from semisam_o1.evaluation.metrics import dice_per_class, segmentation_metrics
from semisam_o1.runs.results import compared


@pytest.mark.parametrize("place", [(5, 4, 3), (0, 0, 0), (9, 8, 4)])
def test_a_part_of_the_scan_gives_the_figures_of_the_whole(place: tuple[int, ...]) -> None:
    final, truth, first = labels = np.zeros((3, 15, 13, 9), np.uint8)
    for shift, label in enumerate(labels):
        i, j, k = place
        label[i : i + 6, max(j - shift, 0) : j + 5, k : k + 5] = 1
        label[i + 2 : i + 4, j + 1 : j + 3, k + shift : k + 4] = 2
    found = compared(final, truth, first, 3, (1.0, 2.0, 3.0))
    assert found["dice"] == dice_per_class(final, truth, 3)
    assert found["round0_dice"] == dice_per_class(first, truth, 3)
    pairs = [segmentation_metrics(final == c, truth == c, (1.0, 2.0, 3.0))["hd95"] for c in (1, 2)]
    assert found["hd95"] == pytest.approx(np.mean(pairs))


def test_labels_without_foreground_are_compared_by_convention() -> None:
    nothing = np.zeros((4, 5, 6), np.uint8)
    assert compared(nothing, nothing, None, 2, (1, 1, 1)) == {"hd95": 0.0, "dice": [1.0]}
