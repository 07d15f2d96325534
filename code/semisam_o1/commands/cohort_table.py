"""The table of the labels that were written for a cohort: where each comes from, and what to expect of it."""

from __future__ import annotations

import contextlib
import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semisam_o1.commands.cohort_labels import NETWORK, NONE, OWN, ROUND, CohortScan
from semisam_o1.commands.judging import Judgment
from semisam_o1.core.atomic_io import write_text
from semisam_o1.refinement.quality import not_to_be_trusted

TABLE = "labels.csv"
COLUMNS = ("scan", "list", "label", "expected_dice", "validation_dice", "uncertainty", "file")
LABEL, EXPECTED, FILE = (COLUMNS.index(column) for column in ("label", "expected_dice", "file"))


@dataclass(frozen=True)
class CohortTable:
    """The table and what stands in all of its rows.

    The expected Dice is that of the scan, its mean and then one per class; the validation Dice is that of the round, or
    of the network, on the validation scans.
    """

    path: Path
    judgment: Judgment
    num_classes: int

    @property
    def columns(self) -> list[str]:
        classes = range(1, self.num_classes) if self.num_classes > 2 else ()
        return [*COLUMNS, *(f"expected_dice_class{c}" for c in classes)]

    def read(self, scans: Mapping[str, CohortScan]) -> dict[str, list[str]]:
        """Return the rows that the table has of the label files of scans; none where it has other columns."""
        rows: list[list[str]] = []
        with contextlib.suppress(OSError, ValueError, csv.Error):
            rows = list(csv.reader(io.StringIO(self.path.read_text(encoding="utf-8"))))
        if not rows or rows[0] != self.columns:
            return {}
        of_files = {row[0]: row for row in rows[1:] if len(row) == len(self.columns) and row[FILE]}
        return {name: row for name, row in of_files.items() if name in scans and row[FILE] == scans[name].path.name}

    def write(self, scans: Mapping[str, CohortScan], kept: Mapping[str, Sequence[str]]) -> None:
        """Write one row per scan; ``kept`` holds those of label files that were there before.

        Raises:
            WriteError: if the file cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(kept.get(name) or self._row(name, scan) for name, scan in scans.items())
        write_text(self.path, text.getvalue())

    def label(self, scan: CohortScan) -> str:
        """Return the entry that says where a label comes from."""
        return f"round {self.judgment.round}" if scan.origin == ROUND else scan.origin

    def _row(self, name: str, scan: CohortScan) -> list[str]:
        round_, scores = self.judgment.round, self.judgment.scores
        network = max((score for trained, score in scores.items() if trained), default=None)
        validated = {ROUND: scores.get(round_), NETWORK: scores.get(round_, network) if round_ else network}
        expected = None if scan.expected is None else float(np.mean(scan.expected))
        numbers = [_text(value) for value in (expected, validated.get(scan.origin), scan.uncertainty)]
        file = scan.path.name if scan.origin != NONE else ""
        per_class = scan.expected or [None] * (self.num_classes - 1)
        return [name, scan.list_name, self.label(scan), *numbers, file, *map(_text, per_class)][: len(self.columns)]


def expected_of(row: Sequence[str]) -> tuple[float, ...] | None:
    """Return the expected Dice per foreground class that a row of the table states."""
    values = [value for value in (row[len(COLUMNS) :] or row[EXPECTED : EXPECTED + 1]) if value]
    return tuple(map(float, values)) or None


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def summary(
    scans: Mapping[str, CohortScan], kept: Mapping[str, Sequence[str]], labels: Path, table: CohortTable
) -> str:
    """Return the sentences about an export, of which ``kept`` are the rows of files that were there before."""
    others = {name: row[LABEL] for name, row in kept.items() if row[LABEL] != table.label(scans[name])}
    counts = Counter(scan.origin for name, scan in scans.items() if name not in others)
    texts = {
        OWN: "with your own mask",
        ROUND: f"with the label of round {table.judgment.round}",
        NETWORK: "predicted by the network",
    }
    parts = [f"{counts[origin]} {text}" for origin, text in texts.items() if counts[origin]]
    parts += [f"{count} as before ({label})" for label, count in Counter(others.values()).items()]
    lines = [f"{labels}: {table.judgment.reason}", f"{len(scans)} scans: {', '.join(parts)}; {table.path} lists them"]
    expected = {name: scan.expected for name, scan in scans.items() if scan.expected is not None}
    if remark := not_to_be_trusted(expected):
        lines.append(remark)
    if others:
        lines.append("--overwrite replaces the labels that are as before")
    if counts[NONE]:
        lines.append(f"{counts[NONE]} scans outside of training have no label: no network is trained yet")
    return "\n".join(lines)
