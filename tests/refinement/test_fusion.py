"""What the model says, weighed against what others say."""

from __future__ import annotations

import numpy as np
import torch

from semisam_o1.refinement.fusion import fuse, on_grid

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


def test_predictions_are_brought_to_the_working_grid() -> None:
    probabilities = torch.from_numpy(sure_of(1, 0.75))
    coarse = on_grid(probabilities, (6, 5, 4))
    assert coarse.dtype == np.float16
    np.testing.assert_allclose(coarse[1], np.full((6, 5, 4), 0.75))
