"""The table of the labels that were written for a cohort: where each comes from, and what to expect of it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from semisam_o1.commands.cohort_labels import NETWORK, NONE, OWN, ROUND, CohortScan
from semisam_o1.commands.judging import Judgment
from semisam_o1.core.atomic_io import write_text
from semisam_o1.refinement.quality import not_to_be_trusted

TABLE = "labels.csv"
COLUMNS = ("scan", "list", "label", "expected_dice", "validation_dice", "uncertainty", "file")


def write_table(path: Path, scans: Mapping[str, CohortScan], judgment: Judgment, num_classes: int) -> None:
    """Write one row per scan.

    The expected Dice is that of the scan, its mean and then one per class; the validation Dice is that of the round, or
    of the network, on the validation scans.
    """
    classes = range(1, num_classes) if num_classes > 2 else ()
    network = max((score for round_, score in judgment.scores.items() if round_), default=None)
    validated = {
        ROUND: judgment.scores.get(judgment.round),
        NETWORK: judgment.scores.get(judgment.round, network) if judgment.round else network,
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"expected_dice_class{c}" for c in classes)])
    for name, scan in scans.items():
        origin = f"round {judgment.round}" if scan.origin == ROUND else scan.origin
        expected = None if scan.expected is None else float(np.mean(scan.expected))
        numbers = [_text(value) for value in (expected, validated.get(scan.origin), scan.uncertainty)]
        per_class = [_text(scan.expected and scan.expected[c - 1]) for c in classes]
        file = scan.path.name if scan.origin != NONE else ""
        writer.writerow([name, scan.list_name, origin, *numbers, file, *per_class])
    write_text(path, text.getvalue())


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def summary(scans: Mapping[str, CohortScan], labels: Path, judgment: Judgment, table: Path) -> str:
    """Return the sentences about an export."""
    counts = Counter(scan.origin for scan in scans.values())
    texts = {
        OWN: "with your own mask",
        ROUND: f"with the label of round {judgment.round}",
        NETWORK: "predicted by the network",
    }
    parts = [f"{counts[origin]} {text}" for origin, text in texts.items() if counts[origin]]
    lines = [f"{labels}: {judgment.reason}", f"{len(scans)} scans: {', '.join(parts)}; {table} lists them"]
    expected = {name: scan.expected for name, scan in scans.items() if scan.expected is not None}
    if remark := not_to_be_trusted(expected):
        lines.append(remark)
    if counts[NONE]:
        lines.append(f"{counts[NONE]} scans outside of training have no label: no network is trained yet")
    return "\n".join(lines)
