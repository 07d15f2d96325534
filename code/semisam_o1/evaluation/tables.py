"""Test metrics per case and class, their summary, and both as text, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semisam_o1.core.atomic_io import write_text
from semisam_o1.core.text_table import text_table
from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.evaluation.metrics import METRICS, segmentation_metrics

HEADINGS = {
    "dice": "Dice",
    "jaccard": "Jaccard",
    "hd95": "95HD [voxel]",
    "asd": "ASD [voxel]",
    "hd95_mm": "95HD [mm]",
    "asd_mm": "ASD [mm]",
}


@dataclass(frozen=True)
class CaseMetrics:
    """Metrics of one case and foreground class.

    Attributes:
        values: dice, jaccard, hd95 and asd (in voxels), and hd95_mm and asd_mm where the spacing is known.
        empty: whether prediction or label has no voxel of the class, so that the metrics follow a convention.
    """

    name: str
    label: int
    values: dict[str, float]
    empty: bool


def case_metrics(volume: Volume, prediction: np.ndarray, num_classes: int) -> list[CaseMetrics]:
    """Compare a label map (W, H, D) with the label of its volume, class by class."""
    cases = []
    for c in range(1, num_classes):
        predicted, truth = prediction == c, volume.label == c
        values = segmentation_metrics(predicted, truth)
        if volume.geometry.known:
            in_mm = segmentation_metrics(predicted, truth, volume.geometry.spacing)
            values |= {"hd95_mm": in_mm["hd95"], "asd_mm": in_mm["asd"]}
        cases.append(CaseMetrics(volume.name, c, values, not (predicted.any() and truth.any())))
    return cases


def summarize(cases: Sequence[CaseMetrics]) -> dict[str, Any]:
    """Return mean and standard deviation over cases, per class and overall (of every case's mean over classes)."""
    classes = {}
    for c in sorted({case.label for case in cases}):
        of_class = [case for case in cases if case.label == c]
        statistics = _statistics([case.values for case in of_class])
        classes[str(c)] = {**statistics, "empty": sum(case.empty for case in of_class)}
    means = []
    for name in dict.fromkeys(case.name for case in cases):
        columns = _columns([case.values for case in cases if case.name == name])
        means.append({key: float(np.mean(values)) for key, values in columns.items()})
    empty = sum(case.empty for case in cases)
    return {"cases": len(means), "empty": empty, "classes": classes, "overall": _statistics(means)}


def table(summary: dict[str, Any]) -> str:
    """Return the printed table: mean ± standard deviation over cases, per class and overall."""
    keys = [key for key in HEADINGS if key in METRICS or key in summary["overall"]]
    rows = [["class", *(HEADINGS[key] for key in keys)] + ["empty"] * (summary["empty"] > 0)]
    for label, statistics in [*summary["classes"].items(), ("all", summary["overall"])]:
        cells = [f"{statistics[k]['mean']:.4f} ± {statistics[k]['std']:.4f}" if k in statistics else "-" for k in keys]
        empty = [str(statistics.get("empty", summary["empty"]))] if summary["empty"] else []
        rows.append([label, *cells, *empty])
    note = f"{summary['cases']} cases"
    if summary["empty"]:
        note += (
            "; empty: cases of the mean with an empty prediction or label, which count by convention "
            "(both empty 1, 1, 0, 0; one empty 0, 0, 200, 100)"
        )
    return "\n".join([*text_table(rows), note])


def write_csv(path: Path, cases: Sequence[CaseMetrics]) -> None:
    """Write a row per case and class."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["name", "class", *HEADINGS, "empty"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**_row(case), "empty": int(case.empty)} for case in cases)
    write_text(path, text.getvalue())


def as_json(cases: Sequence[CaseMetrics], summary: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    """Return the content of test_metrics.json: settings of the test, summary, and metrics per case and class."""
    return {**context, "summary": summary, "per_case": [_row(case) for case in cases]}


def _row(case: CaseMetrics) -> dict[str, Any]:
    return {"name": case.name, "class": case.label, **case.values, "empty": case.empty}


def _columns(rows: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row[key] for row in rows if key in row] for key in keys}


def _statistics(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    columns = _columns(rows)
    return {key: {"mean": float(np.mean(values)), "std": float(np.std(values))} for key, values in columns.items()}
