"""Loss terms against recorded and hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from golden_inputs import golden, volume
from semisam_o1.methods.losses import cross_entropy, dice_loss, one_hot, squared_difference

SHAPE = (2, 3, 8, 10, 6)


def test_losses_match_the_recorded_ones() -> None:
    recorded = golden("losses.json")
    logits = volume(SHAPE, 31)
    probabilities, other = logits.softmax(1), volume(SHAPE, 33).softmax(1)
    label = torch.from_numpy(np.random.RandomState(32).randint(0, 3, (2, 8, 10, 6)))
    target = one_hot(label, 3)
    values = {
        "dice_loss_3class": dice_loss(probabilities, target),
        "cross_entropy": cross_entropy(logits, label),
        "binary_dice_loss": dice_loss(probabilities[:, 1:2], target[:, 1:2]),
        "softmax_mse_mean": squared_difference(probabilities, other).mean(),
    }
    for name, value in values.items():
        assert value.item() == pytest.approx(recorded[name], abs=1e-6), name


def test_one_hot_of_bytes() -> None:
    label = torch.tensor([[[[0, 2, 1]]]], dtype=torch.uint8)
    expected = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.float32)
    assert torch.equal(one_hot(label, 3), expected.reshape(1, 3, 1, 1, 3))


def test_dice_loss_by_hand() -> None:
    # Class 0: Σpg = 0.5, Σp² = 0.5² + 0.5² = 0.5, Σg² = 1. Class 1 likewise.
    probabilities = torch.full((1, 2, 1, 1, 2), 0.5)
    target = one_hot(torch.tensor([[[[0, 1]]]]), 2)
    assert dice_loss(probabilities, target).item() == pytest.approx(1 - (1 + 1e-5) / (1.5 + 1e-5), abs=1e-6)
    assert dice_loss(target, target).item() == pytest.approx(0, abs=1e-6)


def test_shapes_that_would_broadcast_are_refused() -> None:
    a, b = torch.zeros(2, 2, 4, 4, 4), torch.zeros(2, 1, 4, 4, 4)
    for function in (dice_loss, squared_difference):
        with pytest.raises(ValueError, match=r"\(2, 2, 4, 4, 4\) and \(2, 1, 4, 4, 4\)"):
            function(a, b)


def test_voxels_without_weight_do_not_count_and_equal_weights_change_nothing() -> None:
    logits = volume((2, 3, 4, 5, 6), 1)
    label = torch.randint(0, 3, (2, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    whole = torch.ones(2, 4, 5, 6)
    half = whole.clone()
    half[:, 2:] = 0
    target = one_hot(label, 3)
    for loss, reference in (
        (lambda weight: cross_entropy(logits, label, weight), cross_entropy(logits[:, :, :2], label[:, :2])),
        (
            lambda weight: dice_loss(logits.softmax(1), target, weight),
            dice_loss(logits.softmax(1)[:, :, :2], target[:, :, :2]),
        ),
    ):
        torch.testing.assert_close(loss(half), reference)
        torch.testing.assert_close(loss(0.3 * whole), loss(None), atol=1e-4, rtol=0)
    assert cross_entropy(logits, label, 0 * whole) == 0
