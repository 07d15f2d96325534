"""The bias that validation labels suggest: where it is estimated, shrunk and left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from semisam_o1.evaluation.decision import LARGEST, DoubtfulVoxels, Measured, calibrate, shifted
from semisam_o1.evaluation.metrics import dice_per_class


def ball(seed: int, generous: float) -> tuple[Tensor, Tensor]:
    """Return probabilities (2, 16, 15, 14) of a ball, and its label; the boundary is too far out for generous > 0."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.arange(n) - n / 2 for n in (16.0, 15.0, 14.0)), indexing="ij")
    distance = sum(axis.square() for axis in axes).sqrt() - 5
    foreground = torch.sigmoid(generous - 1.5 * distance + 0.3 * torch.randn(distance.shape, generator=generator))
    return torch.stack([1 - foreground, foreground]), (distance < 0).to(torch.uint8)


def voxels(generous: float, count: int) -> list[DoubtfulVoxels]:
    return [DoubtfulVoxels.of(*ball(seed, generous)) for seed in range(count)]


@pytest.mark.parametrize("bias", [-LARGEST, -0.25, 0.0, LARGEST])
def test_the_voxels_kept_give_the_dice_of_the_whole_scan(bias: float) -> None:
    probabilities, label = ball(0, 1.0)
    predicted = shifted(probabilities, (0.0, bias)).argmax(0)
    kept = DoubtfulVoxels.of(probabilities, label)
    assert len(kept.truth) < label.numel() / 2
    assert kept.dice(np.array([0, bias])) == pytest.approx(dice_per_class(predicted, label, 2)[0])


def test_a_generous_network_is_held_back() -> None:
    decision = calibrate(voxels(1.0, 5), 2)
    assert decision.bias[0] == 0
    assert -1.0 < decision.bias[1] < -0.25
    assert decision.gain > 0.02


def test_fewer_scans_suggest_less() -> None:
    assert calibrate(voxels(1.0, 3), 2).bias[1] > calibrate(voxels(1.0, 8), 2).bias[1]
    assert calibrate(voxels(1.0, 2), 2) is None


def test_a_decision_that_is_right_hardly_moves() -> None:
    assert abs(calibrate(voxels(0.0, 5), 2).bias[1]) < 0.2


def test_a_bias_that_costs_on_scans_left_out_is_not_used() -> None:
    opposite = [DoubtfulVoxels.of(*ball(seed, sign)) for seed, sign in enumerate([1.0, -1.0, 1.0, -1.0])]
    assert calibrate(opposite, 2) is None


def test_shifted_probabilities_sum_to_1_and_move_towards_the_class() -> None:
    probabilities = torch.tensor([0.6, 0.3, 0.1]).view(3, 1, 1, 1)
    assert shifted(probabilities, None) is probabilities
    moved = shifted(probabilities, (0.0, 1.0, 0.0))
    assert moved.sum().item() == pytest.approx(1)
    assert moved[1].item() == pytest.approx(0.3 * np.e / (0.7 + 0.3 * np.e))


def test_a_class_that_no_scan_shows_takes_nothing_from_the_others() -> None:
    scans = []
    for seed in range(5):
        (background, foreground), label = ball(seed, 1.5)
        share = (1.2 - foreground).clamp(0.2, 0.6)  # of a class that is not there, in the shell that is too much
        probabilities = torch.stack([background, share * foreground, (1 - share) * foreground])
        scans.append(DoubtfulVoxels.of(probabilities, 2 * label))
    more, none = np.array([0, 0.5, 0]), np.zeros(3)
    assert np.mean([scan.dice(more) for scan in scans]) > np.mean([scan.dice(none) for scan in scans]) + 0.01
    assert calibrate(scans, 3) is None


def test_what_correction_gains_is_known_up_to_a_standard_error() -> None:
    alone, corrected = [[0.4, 0.6], [0.5, 0.7], [0.6, 0.8]], [[0.5, 0.7], [0.5, 0.7], [0.8, 0.8]]
    measured = Measured.of(alone, corrected, expected=alone)
    assert measured.correction_gain == pytest.approx(0.2 / 3)
    assert measured.correction_error == pytest.approx((0.01 / 3) ** 0.5 / 3**0.5)  # of 0.1, 0 and 0.1
    assert Measured.of(alone[:1], corrected[:1], alone).correction_error is None, "one scan tells no spread"
    assert Measured.of(alone, None, alone).correction_gain is None
