"""Test metrics per case and class, their summary, and both as text and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semisam_o1.core.atomic_io import write_text
from semisam_o1.core.terminal import text_table
from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.evaluation.metrics import IMPLEMENTATIONS

HEADINGS = {
    "dice": "Dice",
    "jaccard": "Jaccard",
    "hd95": "95HD [voxel]",
    "asd": "ASD [voxel]",
    "hd95_mm": "95HD [mm]",
    "asd_mm": "ASD [mm]",
}
Row = dict[str, Any]  # metrics of one case and foreground class, as they stand in files


def case_metrics(volume: Volume, prediction: np.ndarray, num_classes: int, by: str = "builtin") -> list[Row]:
    """Compare a label map (W, H, D) with the label of its volume.

    Args:
        by: name of the implementation, one of ``IMPLEMENTATIONS``.

    Returns:
        A row per foreground class: name, class, the metrics of ``HEADINGS`` (those in mm where the spacing is known),
        and empty: whether prediction or label has no voxel of the class, so that the metrics follow a convention.
    """
    rows, compare = [], IMPLEMENTATIONS[by]
    for c in range(1, num_classes):
        predicted, truth = prediction == c, volume.label == c
        values = compare(predicted, truth)
        if volume.geometry.known:
            in_mm = compare(predicted, truth, volume.geometry.spacing)
            values |= {"hd95_mm": in_mm["hd95"], "asd_mm": in_mm["asd"]}
        empty = not (predicted.any() and truth.any())
        rows.append({"name": volume.name, "class": c, **values, "empty": empty})
    return rows


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Return mean and standard deviation over cases, per class and overall (of every case's mean over classes)."""
    classes = {}
    for c in sorted({row["class"] for row in rows}):
        of_class = [row for row in rows if row["class"] == c]
        classes[str(c)] = {**_statistics(of_class), "empty": sum(row["empty"] for row in of_class)}
    means = []
    for name in dict.fromkeys(row["name"] for row in rows):
        statistics = _statistics([row for row in rows if row["name"] == name])
        means.append({key: value["mean"] for key, value in statistics.items()})
    empty = sum(row["empty"] for row in rows)
    return {"cases": len(means), "empty": empty, "classes": classes, "overall": _statistics(means)}


def _statistics(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    columns = {key: [row[key] for row in rows if key in row] for key in HEADINGS}
    return {key: {"mean": float(np.mean(v)), "std": float(np.std(v))} for key, v in columns.items() if v}


def table(summary: dict[str, Any], by: str = "builtin", names: Mapping[int, str] | None = None) -> str:
    """Return the printed table: mean ± standard deviation over cases, per class and overall.

    Args:
        by: name of the implementation that computed the metrics.
        names: of classes, where they have names.
    """
    keys = [key for key in HEADINGS if key in summary["overall"]]
    rows = [["class", *(HEADINGS[key] for key in keys)] + ["empty"] * (summary["empty"] > 0)]
    for label, statistics in [*summary["classes"].items(), ("all", summary["overall"])]:
        cells = [f"{statistics[k]['mean']:.4f} ± {statistics[k]['std']:.4f}" if k in statistics else "-" for k in keys]
        empty = [str(statistics.get("empty", summary["empty"]))] if summary["empty"] else []
        rows.append([(names or {}).get(int(label), label) if label != "all" else label, *cells, *empty])
    note = f"{summary['cases']} cases, metrics {'of medpy' if by == 'medpy' else 'as medpy defines them'}"
    if summary["empty"]:
        note += (
            "; empty: cases of the mean with an empty prediction or label, which count by convention "
            "(both empty 1, 1, 0, 0; one empty 0, 0, 200, 100)"
        )
    return "\n".join([*text_table(rows), note])


def write_csv(path: Path, rows: Sequence[Row], names: Mapping[int, str] | None = None) -> None:
    """Write a row per case and class, with the names of the classes where they have names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["name", "class", *HEADINGS, "empty", "class_name"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "empty": int(row["empty"]), "class_name": (names or {}).get(row["class"], "")})
    write_text(path, text.getvalue())
