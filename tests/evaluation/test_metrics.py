"""Metrics against recorded numbers, medpy and the conventions for empty masks."""

from __future__ import annotations

import numpy as np
import pytest

from golden_inputs import golden
from semisam_o1.evaluation import metrics
from semisam_o1.evaluation.metrics import BOTH_EMPTY, ONE_EMPTY, dice_per_class, medpy_metrics, segmentation_metrics

SHAPE = (11, 8, 9)


@pytest.mark.parametrize("pair", range(9))
def test_metrics_match_the_recorded_ones(pair: int) -> None:
    recorded = golden("metrics.npz")
    found = segmentation_metrics(recorded["pred"][pair], recorded["label"][pair])
    np.testing.assert_allclose(list(found.values()), recorded["dice_jaccard_hd95_asd"][pair], atol=1e-9, rtol=0)


@pytest.mark.parametrize("density", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.25, 3.0)])
def test_metrics_are_those_of_medpy(density: float, spacing: tuple[float, ...]) -> None:
    random = np.random.RandomState(int(100 * density))
    for _ in range(5):
        prediction, truth = random.random_sample((2, *SHAPE)) < density
        assert prediction.any()
        assert truth.any()
        found = segmentation_metrics(prediction, truth, spacing)
        expected = medpy_metrics(prediction, truth, spacing)
        assert list(found) == list(expected)
        np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-9, rtol=0)


def test_searches_and_distance_maps_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, truth = np.random.RandomState(5).random_sample((2, *SHAPE)) < 0.2
    found = []
    for share in (0, 1):
        monkeypatch.setattr(metrics, "MAX_SEARCH_SHARE", share)
        found.append(segmentation_metrics(prediction, truth, (0.5, 1.25, 3.0)))
    assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_empty_masks_follow_the_convention() -> None:
    empty, full = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    assert segmentation_metrics(empty, empty) == BOTH_EMPTY == {"dice": 1, "jaccard": 1, "hd95": 0, "asd": 0}
    worst = {"dice": 0, "jaccard": 0, "hd95": 200, "asd": 100}
    assert segmentation_metrics(empty, full) == segmentation_metrics(full, empty) == ONE_EMPTY == worst
    assert medpy_metrics(empty, empty) == BOTH_EMPTY
    assert medpy_metrics(empty, full) == medpy_metrics(full, empty) == ONE_EMPTY


def test_two_voxels_by_hand() -> None:
    prediction, truth = np.zeros((2, *SHAPE), bool)
    prediction[0, 0, 0] = truth[3, 4, 0] = True
    expected = {"dice": 0, "jaccard": 0, "hd95": 5, "asd": 5}
    assert segmentation_metrics(prediction, truth) == pytest.approx(expected)
    assert segmentation_metrics(prediction, truth, (2.0, 2.0, 9.0))["asd"] == pytest.approx(10)


def test_mean_surface_distance_is_directed() -> None:
    prediction, truth = np.zeros((2, *SHAPE), bool)
    prediction[0, 0, 0] = truth[0, 0, 0] = truth[0, 0, 6] = True
    assert segmentation_metrics(prediction, truth)["asd"] == 0
    assert segmentation_metrics(truth, prediction)["asd"] == 3


def test_results_of_a_call_are_its_own() -> None:
    empty = np.zeros(SHAPE, bool)
    segmentation_metrics(empty, empty)["dice"] = -1
    segmentation_metrics(empty, ~empty)["dice"] = -1
    assert segmentation_metrics(empty, empty)["dice"] == 1
    assert segmentation_metrics(empty, ~empty)["dice"] == 0


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(11, 8, 9\).*\(11, 8, 1\)"):
        segmentation_metrics(np.ones(SHAPE), np.ones((11, 8, 1)))


def test_dice_per_class_is_that_of_each_mask() -> None:
    prediction, truth = np.random.RandomState(3).randint(0, 4, (2, *SHAPE)).astype(np.uint8)
    expected = [medpy_metrics(prediction == c, truth == c)["dice"] for c in (1, 2, 3)]
    assert dice_per_class(prediction, truth, 4) == pytest.approx(expected, abs=1e-12)


def test_dice_of_absent_classes() -> None:
    prediction, truth = np.array([[[0, 1, 1, 2]], [[0, 1, 0, 0]]], np.uint8)[..., None]
    # Class 1: 2·1 / 3. Class 2: predicted alone. Class 3: nowhere.
    assert dice_per_class(prediction, truth, 4) == pytest.approx([2 / 3, 0, 1])
