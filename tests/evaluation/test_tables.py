"""Tables and tracking."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from semisam_o1.data.dataset.volumes import Geometry, Volume
from semisam_o1.evaluation.tables import case_metrics, summarize, table, write_csv
from semisam_o1.runs.layout import RunFolder
from semisam_o1.training.tracking import Tracker


def cases(spacing: tuple[float, float, float] | None) -> list:
    geometry = Geometry(spacing, known=True) if spacing else Geometry()
    found = []
    for name, shift in (("a", 0), ("b", 1)):
        label = np.zeros((8, 6, 5), np.uint8)
        label[1:4, 1:4, 1:4] = 1
        prediction = np.roll(label, shift, axis=0)
        found += case_metrics(Volume(name, label.astype(np.float32), label, geometry), prediction, 3)
    return found


def test_means_are_taken_per_class_and_over_cases() -> None:
    summary = summarize(cases((2.0, 1.0, 1.0)))
    assert summary["cases"] == 2
    assert summary["empty"] == 2  # class 2 is nowhere
    assert summary["classes"]["1"]["dice"] == pytest.approx({"mean": (1 + 2 / 3) / 2, "std": 1 / 6})
    assert summary["classes"]["2"]["dice"] == {"mean": 1, "std": 0}
    assert summary["overall"]["dice"]["mean"] == pytest.approx((1 + (2 / 3 + 1) / 2) / 2)
    assert summary["classes"]["1"]["hd95"]["mean"] == pytest.approx(0.5)
    assert summary["classes"]["1"]["hd95_mm"]["mean"] == pytest.approx(1.0)
    text = table(summary)
    assert "empty: cases of the mean" in text
    assert (summary["classes"]["1"]["empty"], summary["classes"]["2"]["empty"]) == (0, 2)
    assert "95HD [mm]" in text


def test_without_a_known_spacing_there_are_no_millimeters(tmp_path: Path) -> None:
    found = cases(None)
    assert "[mm]" not in table(summarize(found))
    write_csv(tmp_path / "m.csv", found)
    rows = list(csv.DictReader((tmp_path / "m.csv").open()))
    assert [(row["name"], row["class"]) for row in rows] == [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]
    assert rows[0]["hd95_mm"] == ""


def test_names_of_classes_stand_in_tables_and_in_tensorboard(tmp_path: Path) -> None:
    found, names = cases(None), {1: "left / right liver", 2: "tumor"}
    assert [line.strip().split("  ")[0] for line in table(summarize(found), names=names).splitlines()[1:4]] == [
        "left / right liver",
        "tumor",
        "all",
    ]
    write_csv(tmp_path / "m.csv", found, names)
    assert {(row["class"], row["class_name"]) for row in csv.DictReader((tmp_path / "m.csv").open())} == {
        ("1", "left / right liver"),
        ("2", "tumor"),
    }
    folder = RunFolder(tmp_path, "unet_3D")
    with Tracker(folder, class_names=names) as tracker:
        tracker.log(1, {"validation/dice_class1": 0.5, "validation/dice": 0.5}, round=1)
    (events,) = folder.tensorboard.glob("events*")
    assert b"validation/dice_left_right_liver" in events.read_bytes()
    assert "validation/dice_class1" in folder.metrics.read_text(), "which programs read"


def test_what_is_done_again_is_not_logged_twice(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "unet_3D")
    with Tracker(folder) as tracker:
        tracker.log(0, {"pseudo_labels/uncertainty": 0.0}, round=0)
        for iteration in range(1, 5):
            tracker.log(iteration, {"loss/total": float(iteration)}, round=1, iteration=iteration)
        tracker.log(4, {"pseudo_labels/uncertainty": 1.0}, round=1)  # of a round that was not finished
    with folder.metrics.open("a") as file:
        file.write('{"step": 5, "loss/to')  # cut off by a kill
    with Tracker(folder, last_round=0, last_step=3) as tracker:
        tracker.log(4, {"loss/total": 40.0}, round=1, iteration=4)
        tracker.say("done")
    rows = [json.loads(line) for line in folder.metrics.open()]
    assert [(row["round"], row.get("loss/total")) for row in rows] == [(0, None), (1, 1), (1, 2), (1, 3), (1, 40)]
    assert folder.log.read_text() == "done\n"
    assert len(list(folder.tensorboard.glob("events*"))) >= 1
