"""The figures and labels of a round on disk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from semisam_o1.core.errors import InputError
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.runs.best import best_round, improves
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, known_records, open_round, read_records, write_round

ROUND_0 = RoundRecord(0, 0.2, None, (), 0.0, None, None, 3.0)
TEXT = json.dumps([RoundRecord(1, 0.1, 0.3, (), 0.5, None, None, 5.0, "0.6", 20).to_json()])
ROUND_1 = RoundRecord(1, 0.1, 0.3, ("b",), 0.5, 0.8, (0.7, 0.9), 5.0, 0.6, 20)


def write(folder: RunFolder, record: RoundRecord, **known: object) -> None:
    labels = {name: np.full((3, 4, 5), record.round, np.uint8) for name in "ab"}
    write_round(folder, PseudoLabels(labels, refined=list(record.refined), **known), record)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "unet_3D")
    write(folder, ROUND_0)
    write(folder, ROUND_1, uncertainty={"b": 0.3}, confidence={"b": np.full((3, 4, 5), 200, np.uint8)})
    assert read_records(folder) == [ROUND_0, ROUND_1]
    with open_round(folder.pseudo_labels(1)) as labels:
        assert labels.names == {"a", "b"}
        assert labels.label("a").tolist() == np.ones((3, 4, 5)).tolist()
        assert (labels.uncertainty("a"), labels.uncertainty("b")) == (None, 0.3)
        assert (labels.refined("a"), labels.refined("b")) == (False, True)
    with open_round(folder.confidence(1)) as confidence:
        assert confidence.names == {"b"}
    assert not folder.confidence(0).exists()


def test_a_damaged_round_does_not_count_as_finished(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "unet_3D")
    write(folder, ROUND_0)
    write(folder, ROUND_1)
    folder.pseudo_labels(1).write_bytes(b"no HDF5")
    assert read_records(folder) == [ROUND_0]
    with pytest.raises(InputError, match=r"round1\.h5"), open_round(folder.pseudo_labels(1)):
        pass


def test_a_record_of_round_0_says_nothing_of_training() -> None:
    assert "validation_dice" not in ROUND_0.to_json()
    assert RoundRecord.from_json(ROUND_1.to_json()) == ROUND_1
    with pytest.raises(ValueError, match="not the record of a round"):
        RoundRecord.from_json({"round": 1})


def test_the_best_round_is_the_first_with_the_highest_validation_dice() -> None:
    equal = RoundRecord(2, 0.1, 0.3, (), 0.0, 0.8, (0.8,), 5.0, 0.6, 40)
    assert best_round([ROUND_0, ROUND_1, equal]) is ROUND_1
    assert best_round([ROUND_0]) is ROUND_0


def test_without_validation_the_last_round_is_the_best() -> None:
    rounds = [RoundRecord(r, 0.1, 0.3, (), 0.0, None, None, 5.0, None, 40) for r in (1, 2)]
    assert best_round([ROUND_0, *rounds]) is rounds[1]
    assert rounds[0].trained and RoundRecord.from_json(rounds[0].to_json()) == rounds[0]
    assert "no validation at iteration 40" in rounds[0].describe()


def test_without_validation_the_last_round_that_was_not_refused_is_the_best() -> None:
    rounds = [RoundRecord(r, 0.1, 0.3, (), 0.0, None, None, 5.0, None, 40) for r in (1, 2, 3)]
    refused = [dataclasses.replace(record, kept=("a", "b")) for record in rounds]
    assert best_round([ROUND_0, rounds[0], rounds[1], refused[2]]) is rounds[1]
    assert best_round([ROUND_0, *refused]) is refused[2]


def test_a_run_that_is_passed_on_without_labels_has_its_table_of_rounds(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "unet_3D")
    assert known_records(folder) == []
    write(folder, ROUND_0)
    write(folder, ROUND_1)
    for path in folder.labels.iterdir():
        path.unlink()
    assert (read_records(folder), known_records(folder)) == ([], [ROUND_0, ROUND_1])
    for damaged in ('{"round": 1}', "[1, 2]", "[", '[{"round": 1}]', TEXT):
        folder.tracking.write_text(damaged)
        with pytest.raises(InputError, match=r"round_tracking.json cannot be read"):
            known_records(folder)


def test_a_network_improves_on_those_whose_labels_were_accepted() -> None:
    refused = RoundRecord(2, 0.1, 0.3, (), 0.0, None, None, 5.0, 0.9, 20, kept=("a", "b"))
    assert improves(0.7, [ROUND_0, ROUND_1, refused])
    assert not improves(0.6, [ROUND_0, ROUND_1, refused])
    assert not improves(0.7, [ROUND_0, refused]), "the first one has none to be compared with"
    assert not improves(None, [ROUND_0, ROUND_1])
