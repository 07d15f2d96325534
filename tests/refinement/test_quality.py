"""Expected Dice without a true label, and the rule by which a label is replaced."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.refinement.pseudo_labels import PseudoLabels, keep_former
from semisam_o1.refinement.quality import doubtful, error_increase, expected_dice, judge, one_hot


def random_probabilities(seed: int, sharpness: float) -> np.ndarray:
    values = np.exp(sharpness * np.random.default_rng(seed).standard_normal((3, 12, 11, 10)))
    return (values / values.sum(0)).astype(np.float32)


def test_labels_without_doubt_have_their_own_dice() -> None:
    labels = [random_probabilities(seed, 1.0).argmax(0).astype(np.uint8) for seed in (0, 1)]
    expected = expected_dice(*(one_hot(label, 3) for label in labels))
    assert expected == pytest.approx(dice_per_class(*labels, 3))


def test_it_is_the_mean_dice_of_labels_drawn_from_the_opinions() -> None:
    opinions, generator = [random_probabilities(seed, 2.0) for seed in (0, 1)], np.random.default_rng(0)
    drawn = [
        dice_per_class(*((generator.random(p.shape[1:]) > np.cumsum(p, 0)[:-1]).sum(0) for p in opinions), 3)
        for _ in range(200)
    ]
    assert expected_dice(*opinions) == pytest.approx(np.mean(drawn, axis=0), abs=0.005)
    assert expected_dice(*map(torch.from_numpy, opinions)) == pytest.approx(expected_dice(*opinions))


def test_a_class_that_no_opinion_knows_is_right() -> None:
    empty = one_hot(np.zeros((4, 4, 4), np.uint8), 3)
    assert expected_dice(empty, empty) == (1.0, 1.0)
    assert expected_dice(one_hot(np.ones((4, 4, 4), np.uint8), 3), empty) == (0.0, 1.0)


def test_the_label_is_judged_and_not_its_probabilities() -> None:
    probabilities = random_probabilities(0, 2.0)
    label = probabilities.argmax(0).astype(np.uint8)
    assert judge(probabilities, one_hot(label, 3)) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("now", "first", "increase"),
    [
        ((0.8, 0.8), (0.9, 0.7), 0.0),
        ((0.7, 0.7), (0.8, 0.8), 0.5),
        ((0.9, 0.9), (0.8, 0.8), -0.5),
        ((1.0,), (1.0,), 0.0),
    ],
)
def test_the_error_of_a_label_is_relative_to_that_of_round_0(
    now: tuple[float, ...], first: tuple[float, ...], increase: float
) -> None:
    assert error_increase(now, first) == pytest.approx(increase)


def test_doubtful_labels_are_named_with_the_worst_first() -> None:
    assert doubtful({"a": (0.5, 0.6), "b": (0.9, 0.8), "c": (0.2, 0.4)}) == pytest.approx({"c": 0.3, "a": 0.55})


def test_kept_labels_are_the_former_ones_with_all_that_is_known_of_them() -> None:
    now, then = np.ones((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.uint8)
    fresh = {"a": (0.1,), "b": (0.2,)}
    pseudo = PseudoLabels({"t": now, "a": now, "b": now}, refined=["a", "b"], expected=fresh, confidence={"b": now})
    former = PseudoLabels({"a": then, "b": then}, expected={"a": (0.9,)}, confidence={"a": then})
    kept = keep_former(pseudo, former, ["a"])
    assert kept.labels["a"] is then
    assert kept.labels["b"] is kept.labels["t"] is now
    assert (kept.expected, kept.refined, kept.kept) == ({"a": (0.9,), "b": (0.2,)}, ["b"], ["a"])
    assert kept.confidence["a"] is then
    assert (keep_former(pseudo, PseudoLabels({"a": then}), ["a"]).confidence["a"] == 255).all()
