"""The table of the labels that were written for a cohort: where each comes from, and what to expect of it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from semisam_o1.commands.cohort_labels import NETWORK, NONE, OWN, ROUND, CohortScan
from semisam_o1.commands.judging import Judgment
from semisam_o1.core.atomic_io import write_text

TABLE = "labels.csv"
COLUMNS = ("scan", "list", "label", "expected_dice", "uncertainty", "file")


def write_table(path: Path, scans: Mapping[str, CohortScan], judgment: Judgment) -> None:
    """Write one row per scan; the expected Dice is that of the round, or of the network, on the validation scans."""
    network = max((score for round_, score in judgment.scores.items() if round_), default=None)
    expected = {
        ROUND: judgment.scores.get(judgment.round),
        NETWORK: judgment.scores.get(judgment.round, network) if judgment.round else network,
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, scan in scans.items():
        origin = f"round {judgment.round}" if scan.origin == ROUND else scan.origin
        numbers = (expected.get(scan.origin), scan.uncertainty)
        file = scan.path.name if scan.origin != NONE else ""
        writer.writerow([name, scan.list_name, origin, *("" if n is None else f"{n:.4f}" for n in numbers), file])
    write_text(path, text.getvalue())


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
    if counts[NONE]:
        lines.append(f"{counts[NONE]} scans outside of training have no label: no network is trained yet")
    return "\n".join(lines)
