"""The vote between rounds, by recorded and hand-worked labels, and the fusion with the atlas."""

from __future__ import annotations

import numpy as np
import pytest

from golden_inputs import golden
from semisam_o1.refinement.neighbors import fuse, refine, uncertain_volumes, vote


@pytest.mark.parametrize("case", ["a", "b", "few_certain"])
def test_refined_labels_match_the_recorded_ones(case: str) -> None:
    recorded = {
        key.removeprefix(f"{case}/"): value for key, value in golden("knn.npz").items() if key.startswith(case + "/")
    }
    names = [f"v{i}" for i in range(10)]
    labels = {name: recorded[f"raw/{name}"] for name in names}
    uncertainty = {name: float(recorded[f"uncertainty/{name}"]) for name in names[int(recorded["labeled_num"]) :]}
    features = dict(zip(names, recorded["global"], strict=True))
    numbers = (int(recorded["num_classes"]), int(recorded["k"]), float(recorded["quantile"]))
    refined = refine(labels, uncertainty, features, *numbers)
    assert bool(refined) == (case != "few_certain")
    for name in names:
        np.testing.assert_array_equal({**labels, **refined}[name], recorded[f"refined/{name}"])


def row(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_vote_by_hand() -> None:
    voters = [row(0, 1, 2, 2), row(1, 1, 0, 1), row(1, 2, 0, 0)]
    # Column 0: 0.5 for 0, 0.7 for 1. Column 3: 0.5 for 2, 0.4 for 1, 0.3 for 0.
    voted = vote(row(0, 0, 0, 0), voters, np.array([0.5, 0.4, 0.3]), num_classes=3)
    assert voted.ravel().tolist() == [1, 1, 0, 2]
    assert voted.dtype == np.uint8


def test_ties_go_to_the_lower_class() -> None:
    voted = vote(row(1, 1), [row(2, 2), row(1, 0)], np.array([0.5, 0.5]), num_classes=3)
    assert voted.ravel().tolist() == [1, 0]


def test_a_vote_without_weight_keeps_the_label() -> None:
    label = row(2, 1, 0)
    np.testing.assert_array_equal(vote(label, [row(0, 0, 0)], np.zeros(1), 3), label)


def test_voters_of_another_shape_are_resized() -> None:
    voted = vote(row(0, 0, 0, 0), [row(1, 2)], np.ones(1), 3)
    assert voted.ravel().tolist() == [1, 1, 2, 2]


def test_uncertain_are_those_at_or_above_the_quantile() -> None:
    uncertainty = {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3, "e": 0.5}
    assert uncertain_volumes(uncertainty, 0.5) == ["b", "d", "e"]  # the median, 0.3, included
    assert uncertain_volumes(uncertainty, 1.0) == ["e"]
    assert uncertain_volumes({}, 0.5) == []


LABELS = {"t": row(1, 1, 0), "near": row(0, 1, 1), "far": row(0, 0, 0), "unsure": row(2, 2, 2)}
UNCERTAINTY = {"near": 0.1, "far": 0.2, "unsure": 0.9}


def features(**changes: tuple[float, float]) -> dict[str, np.ndarray]:
    values = {"t": (0.6, 0.8), "near": (0.8, 0.6), "far": (-1.0, 0.0), "unsure": (1.0, 0.0)} | changes
    return {name: np.array(value, np.float32) for name, value in values.items()}


def test_nearest_certain_volumes_vote_and_negative_weights_count_nothing() -> None:
    refined = refine(LABELS, UNCERTAINTY, features(), 3, k=3, quantile=0.9)
    assert list(refined) == ["unsure"]
    # near (0.8) against the template (0.6); far (−1) does not vote 0.
    assert refined["unsure"].ravel().tolist() == [0, 1, 1]
    one = refine(LABELS, UNCERTAINTY, features(t=(1.0, 0.0)), 3, k=1, quantile=0.9)
    assert one["unsure"].ravel().tolist() == [1, 1, 0]


def test_fewer_certain_than_k_or_nobody_uncertain_changes_nothing() -> None:
    assert refine(LABELS, UNCERTAINTY, features(), 3, k=4, quantile=0.9) == {}
    assert refine({"t": LABELS["t"]}, {}, features(), 3, k=1, quantile=0.9) == {}


def test_all_negative_neighbors_keep_the_prediction() -> None:
    opposite = features(t=(-0.6, 0.8), near=(-1.0, 0.0))
    refined = refine(LABELS, UNCERTAINTY, opposite, 3, k=3, quantile=0.9)
    np.testing.assert_array_equal(refined["unsure"], LABELS["unsure"])


GRID = (12, 10, 8)


def sure_of(c: int, certainty: float = 1.0) -> np.ndarray:
    probabilities = np.full((2, *GRID), 1 - certainty, np.float32)
    probabilities[c] = certainty
    return probabilities


class Others:
    """An atlas whose neighbors and templates say what they are told."""

    def __init__(self, neighbors: np.ndarray, templates: np.ndarray):
        self.neighbors, self.templates = neighbors, templates

    def fuse_neighbors(self, name: str, predicted) -> np.ndarray:
        return self.neighbors

    def consensus(self, name: str) -> np.ndarray:
        return self.templates


def test_where_the_model_is_sure_its_label_stands_and_where_it_is_not_the_others_decide() -> None:
    own = sure_of(0)
    own[:, :6] = 0.5
    fused = fuse("volume", Others(sure_of(1, 0.9), sure_of(1, 0.9)), lambda name: own)
    assert fused.shape == own.shape
    np.testing.assert_allclose(fused.sum(axis=0), 1, atol=1e-5)
    assert (fused[:, 6:].argmax(axis=0) == 0).all()
    assert (fused[:, :6].argmax(axis=0) == 1).all()


def test_neighbors_and_templates_are_both_heard() -> None:
    unsure = np.full((2, *GRID), 0.5, np.float32)
    split = fuse("volume", Others(sure_of(1), sure_of(0)), lambda name: unsure)
    np.testing.assert_allclose(split, 0.5, atol=1e-6)
    for voices in (Others(sure_of(1), unsure), Others(unsure, sure_of(1))):
        assert (fuse("volume", voices, lambda name: unsure)[1] > 0.6).all()
