"""Volumes are tested in order, whether or not threads measure while others are predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from semisam_o1.commands.incoming import NetworkInput
from semisam_o1.commands.testing import TestConfig, evaluate_volumes
from semisam_o1.commands.trained import LoadedModel
from semisam_o1.data.preparation.settings import Preparation
from tiny_cohort import write_cohort


def by_brightness(image: torch.Tensor) -> torch.Tensor:
    """Return probabilities (3, W, H, D) from intensities around 0, 1 and 2."""
    return torch.softmax(torch.stack([-((image - c) ** 2) for c in range(3)]), 0)


def test_threads_change_nothing(tmp_path: Path) -> None:
    root = write_cohort(tmp_path / "data")
    config = TestConfig(root_path=root, exp="run", num_classes=3).resolve({})
    names = [f"train{i}" for i in range(6)]
    model = LoadedModel(None, config, by_brightness)
    network = NetworkInput(Preparation(orientation="keep"), None, "").of_prepared()
    alone, together = (list(evaluate_volumes(model, network, names, threads)) for threads in (0, 3))
    assert [tested.name for tested in together] == names
    for one, other in zip(alone, together, strict=True):
        assert one.rows == other.rows
        assert len(one.rows) == 2
        assert one.rows[0]["dice"] > 0.5
        np.testing.assert_array_equal(one.prediction, other.prediction)
