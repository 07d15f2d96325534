"""Tables, tracking and figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from semisam_o1.data.dataset.volumes import Geometry, Volume
from semisam_o1.drawing.figures import draw_case, draw_curves, draw_rounds
from semisam_o1.evaluation.tables import case_metrics, summarize, table, write_csv
from semisam_o1.runs.layout import RunFolder
from semisam_o1.training.tracking import Position, Tracker, overlay


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


def test_what_is_done_again_is_not_logged_twice(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "unet_3D")
    with Tracker(folder) as tracker:
        tracker.log(0, {"pseudo_labels/uncertainty": 0.0}, round=0)
        for iteration in range(1, 5):
            tracker.log(iteration, {"loss/total": float(iteration)}, round=1, iteration=iteration)
        tracker.log(4, {"pseudo_labels/uncertainty": 1.0}, round=1)  # of a round that was not finished
    with folder.metrics.open("a") as file:
        file.write('{"step": 5, "loss/to')  # cut off by a kill
    with Tracker(folder, since=Position(finished=0, round_=1, iteration=3, step=3)) as tracker:
        tracker.log(4, {"loss/total": 40.0}, round=1, iteration=4)
        tracker.say("done")
    rows = [json.loads(line) for line in folder.metrics.open()]
    assert [(row["round"], row.get("loss/total")) for row in rows] == [(0, None), (1, 1), (1, 2), (1, 3), (1, 40)]
    assert folder.log.read_text() == "done\n"
    assert len(list(folder.tensorboard.glob("events*"))) >= 1


def test_overlay_outlines_label_and_prediction() -> None:
    label = np.zeros((6, 8), np.uint8)
    label[2:4, 2:6] = 1
    pixels = overlay(np.linspace(0, 1, 48).reshape(6, 8), label, np.roll(label, 1, axis=1))
    assert pixels.shape == (3, 240, 320)  # small slices are enlarged
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    blue = (pixels[2] > 0.99) & (pixels[0] == 0)
    orange = (pixels[0] > 0.99) & (pixels[2] == 0)
    assert blue.any()
    assert orange.any()
    inside = label.repeat(40, 0).repeat(40, 1) > 0
    assert not (blue & ~inside).any()
    assert (blue & inside).sum() < 0.1 * inside.sum()


def test_figures_are_drawn(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    rows = [{"step": t, "round": 1 + t // 5, "loss/total": 1 / (t + 1)} for t in range(10)]
    rows += [{"step": t, "round": 1, "validation/dice": 0.5, "validation/dice_class1": 0.5} for t in (4, 9)]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_curves(metrics, tmp_path / "curves.png")
    image = np.random.default_rng(0).random((9, 8, 7)).astype(np.float32)
    label = (image > 0.5).astype(np.uint8)
    draw_rounds(
        [("a", image, None, [label, label]), ("b", image, label, [label, label])], ["0", "1"], tmp_path / "r.png"
    )
    draw_case(Volume("a", image, label, Geometry()), label, label, tmp_path / "case.png")
    for name in ("curves.png", "r.png", "case.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
