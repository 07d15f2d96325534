"""Which network of a run is its best model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semisam_o1.pipeline.run import Run
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, write_round
from semisam_o1.training.trainer import BestModel


@pytest.mark.parametrize(
    "dice, refused, kept",
    [((None, None), (False, False), 2), ((None, None), (False, True), 1), ((None, None), (True, True), 2),
     ((0.5, 0.6), (False, True), 2), ((0.6, 0.5), (False, False), 1)],
)  # fmt: skip
def test_a_network_that_was_refused_is_kept_only_where_it_validates_better(
    dice: tuple[float | None, float | None], refused: tuple[bool, bool], kept: int, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path, "unet_3D")
    for round_ in (1, 2):
        score, no = dice[round_ - 1], refused[round_ - 1]
        best = BestModel(score, 40, {"weight": torch.tensor([float(round_)])})
        record = RoundRecord(
            round_, 0.1, 0.3, () if no else ("a",), 1.0, None, None, 5.0, score, 40, kept=("a",) if no else ()
        )
        run = SimpleNamespace(folder=folder)
        run.records_before = partial(Run.records_before, run)
        Run.keep_models(run, best, record)
        labels = {"a": np.zeros((3, 4, 5), np.uint8)}
        write_round(folder, PseudoLabels(labels, refined=list(record.refined)), record)
    assert torch.load(folder.best_model, weights_only=True)["weight"] == kept
