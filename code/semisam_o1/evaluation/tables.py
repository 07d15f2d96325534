"""Tables: test metrics per case, class and overall, as text, CSV and JSON."""

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
from semisam_o1.evaluation.metrics import METRICS

HEADINGS = {"dice": "Dice", "jaccard": "Jaccard", "hd95": "95HD", "asd": "ASD"}


@dataclass(frozen=True)
class CaseMetrics:
    """Metrics of one case and foreground class.

    Attributes:
        voxels: metrics with distances in voxels.
        millimeters: hd95 and asd in millimeters, None where the file does not know its spacing.
        empty: whether prediction or truth has no voxel of the class, so that a convention stood in.
    """

    name: str
    label: int
    voxels: dict[str, float]
    millimeters: dict[str, float] | None
    empty: bool


def summarize(cases: Sequence[CaseMetrics]) -> dict[str, Any]:
    """Return mean and standard deviation over cases, per class and overall (cases' means over classes)."""
    classes = sorted({case.label for case in cases})
    by_class = {str(c): _class_statistics([case for case in cases if case.label == c]) for c in classes}
    names = list(dict.fromkeys(case.name for case in cases))
    rows = [
        {key: float(np.mean(values)) for key, values in _columns([_row(c) for c in cases if c.name == name]).items()}
        for name in names
    ]
    return {
        "cases": len(names),
        "empty": sum(case.empty for case in cases),
        "classes": by_class,
        "overall": _statistics(rows),
    }


def table(summary: dict[str, Any]) -> str:
    """Return the printed table: mean ± standard deviation over cases, per class and overall."""
    in_mm = "hd95_mm" in summary["overall"]
    headings = ["class", *(HEADINGS[m] + " [voxel]" * (m in ("hd95", "asd")) for m in METRICS)]
    headings += ["95HD [mm]", "ASD [mm]"] if in_mm else []
    headings += ["empty"] if summary["empty"] else []
    keys = [*METRICS, *(["hd95_mm", "asd_mm"] if in_mm else [])]
    rows = [headings]
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
    writer = csv.DictWriter(text, ["name", "class", *METRICS, "hd95_mm", "asd_mm", "empty"], lineterminator="\n")
    writer.writeheader()
    for case in cases:
        writer.writerow({"name": case.name, "class": case.label, **_row(case), "empty": int(case.empty)})
    write_text(path, text.getvalue())


def as_json(cases: Sequence[CaseMetrics], summary: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    """Return the summary, every case and what was tested."""
    rows = [{"name": case.name, "class": case.label, **_row(case), "empty": case.empty} for case in cases]
    return {**context, "summary": summary, "per_case": rows}


def _row(case: CaseMetrics) -> dict[str, float]:
    row = dict(case.voxels)
    if case.millimeters is not None:
        row |= {f"{key}_mm": value for key, value in case.millimeters.items()}
    return row


def _columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return {key: [row[key] for row in rows if key in row] for key in keys}


def _class_statistics(cases: list[CaseMetrics]) -> dict[str, Any]:
    return {**_statistics([_row(case) for case in cases]), "empty": sum(case.empty for case in cases)}


def _statistics(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        key: {"mean": float(np.mean(values)), "std": float(np.std(values))} for key, values in _columns(rows).items()
    }
