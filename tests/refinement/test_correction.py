"""Predictions of volumes outside of a cohort are corrected by its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ball_cohort import SCANS, make_cohort
from balls import dice
from semisam_o1.data.dataset.prediction import Prediction
from semisam_o1.refinement.correction import CohortCorrection, as_probabilities


@pytest.fixture(scope="module")
def correct(tmp_path_factory: pytest.TempPathFactory) -> CohortCorrection:
    """A cohort of template, a and b with their true labels; c is outside of it."""
    atlas = make_cohort(tmp_path_factory.mktemp("cache"), unlabeled=("a", "b"))
    return CohortCorrection(atlas, lambda name: Prediction(SCANS[name][1]))


def test_a_label_stands_for_its_confidence_and_equal_shares_of_the_rest() -> None:
    label, confidence = np.array([[[0, 2]]], np.uint8), np.array([[[255, 153]]], np.uint8)
    whole = as_probabilities(Prediction(label, confidence), 3)
    np.testing.assert_allclose(whole[:, 0, 0].T, [[1, 0, 0], [0.2, 0.2, 0.6]], atol=1e-6)
    sure = as_probabilities(Prediction(label), 3)
    assert sure[:, 0, 0].T.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_only_volumes_of_the_cohort_are_asked(correct: CohortCorrection) -> None:
    assert {*correct.atlas.neighbors("c"), *correct.atlas.neighbors("a")} <= {"template", "a", "b"}


def test_where_the_network_does_not_know_the_cohort_decides(correct: CohortCorrection) -> None:
    truth = SCANS["c"][1]
    corrected = correct("c", torch.full((3, *truth.shape), 1 / 3))
    np.testing.assert_allclose(corrected.sum(0), 1, atol=1e-5)
    assert min(dice(corrected.argmax(0).numpy(), truth, c) for c in (1, 2)) > 0.8


def test_a_certain_prediction_is_never_overruled(correct: CohortCorrection) -> None:
    wrong = np.roll(SCANS["c"][1], 4, axis=0)
    corrected = correct("c", as_probabilities(Prediction(wrong, np.full_like(wrong, 245)), 3))
    np.testing.assert_array_equal(corrected.argmax(0), wrong)


def test_nothing_changes_outside_of_the_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, label = SCANS["c"]
    wide = [((0, 40), (0, 0), (0, 0))] * 2
    monkeypatch.setitem(SCANS, "c", tuple(np.pad(each, pad) for each, pad in zip((image, label), wide, strict=True)))
    atlas = make_cohort(tmp_path, unlabeled=("a", "b"))
    correct = CohortCorrection(atlas, lambda name: Prediction(SCANS[name][1]))
    unsure = torch.rand((3, *SCANS["c"][0].shape), generator=torch.Generator().manual_seed(0))
    corrected, region = correct("c", unsure), atlas.registered("c").region
    end = region.start[0] + region.size[0]
    assert end < len(SCANS["c"][0])
    torch.testing.assert_close(corrected[:, end:], unsure[:, end:])
    assert not torch.allclose(corrected[:, :end], unsure[:, :end])
