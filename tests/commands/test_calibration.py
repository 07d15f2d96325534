"""What a run found out about its networks goes with their checkpoints, and into what is expected of predictions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from semisam_o1.commands.expected_table import write_expected
from semisam_o1.commands.trained import Calibration, LoadedModel
from semisam_o1.core.errors import InputError
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.runs.find import TrainedModel
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, write_round


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run whose second round is the best one; its networks are calibrated differently."""
    folder, pseudo = RunFolder(tmp_path, "unet_3D"), PseudoLabels({"a": np.zeros((2, 3, 4), np.uint8)})
    folder.labels.mkdir()
    zero = RoundRecord(0, 0.1, None, (), 0.0, None, None, 1.0)
    write_round(folder, pseudo, zero)
    for round_, dice, bias in ((1, 0.7, None), (2, 0.8, (0.0, -0.5))):
        found = {"validation_dice": dice, "best_iteration": 3, "decision_bias": bias, "reliability": (0.1 * round_,)}
        write_round(folder, pseudo, dataclasses.replace(zero, round=round_, **found))
    return folder


def test_each_checkpoint_has_its_own_calibration(folder: RunFolder) -> None:
    def of(checkpoint: Path, num_classes: int = 2) -> Calibration:
        return Calibration.of(TrainedModel(folder.path, checkpoint, "unet_3D", {}), num_classes)

    assert of(folder.round_best(1)) == Calibration(None, (0.1,))
    assert of(folder.best_model) == of(folder.round_best(2)) == Calibration((0.0, -0.5), (0.2,))
    assert of(folder.periodic(1, 50)) == Calibration()


@pytest.mark.parametrize("bias", [(0.0, 1.0, 2.0), "foreground", (0.0, float("nan")), (0.0, "x")])
def test_a_calibration_that_cannot_be_used_is_refused(folder: RunFolder, bias: object) -> None:
    table = json.loads(folder.tracking.read_text())
    table[2]["decision_bias"] = bias
    folder.tracking.write_text(json.dumps(table))
    for labels in folder.labels.iterdir():
        labels.unlink()  # as in a network that is passed on
    with pytest.raises(InputError, match="decision_bias must be 2 numbers"):
        Calibration.of(TrainedModel(folder.path, folder.best_model, "unet_3D", {}), 2)


def test_what_is_expected_of_a_prediction_is_as_reliable_as_the_network() -> None:
    probabilities = np.stack([np.full((2, 3, 4), 0.2), np.full((2, 3, 4), 0.8)]).astype(np.float32)
    assert LoadedModel(None, None, None).expected_dice(probabilities) == pytest.approx((0.8,))
    assert LoadedModel(None, None, None, (0.5,)).expected_dice(probabilities) == pytest.approx((0.4,))
    assert LoadedModel(None, None, None, (2.0,)).expected_dice(probabilities) == (1.0,)


def test_the_table_keeps_scans_predicted_earlier(tmp_path: Path) -> None:
    table = tmp_path / "expected_dice.csv"
    write_expected(table, {"b": (0.9, 0.8)})
    write_expected(table, {"a": (0.5, 0.6)})
    assert table.read_text() == "scan,expected_dice,class1,class2\na,0.5500,0.5000,0.6000\nb,0.8500,0.9000,0.8000\n"
