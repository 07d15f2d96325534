"""The table of what Dice to expect of predicted label maps, beside them."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from semisam_o1.core.atomic_io import write_text

EXPECTED = "expected_dice.csv"
EXPECTED_HEADING = "scan,expected_dice"


def write_expected(path: Path, expected: Mapping[str, tuple[float, ...]]) -> None:
    """Add scans to the table: a row each, the mean and then one value per class.

    Raises:
        WriteError: if the file cannot be written.
    """
    rows = {}
    with contextlib.suppress(OSError, ValueError, csv.Error):
        rows = {row[0]: row[1:] for row in list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))[1:] if row}
    for name, values in expected.items():
        per_class = values if len(values) > 1 else ()
        rows[name] = [f"{value:.4f}" for value in (float(np.mean(values)), *per_class)]
    count = max(len(values) for values in expected.values())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes = [f"class{c}" for c in range(1, count + 1)] if count > 1 else []
    writer.writerow([*EXPECTED_HEADING.split(","), *classes])
    writer.writerows([name, *rows[name]] for name in sorted(rows))
    write_text(path, text.getvalue())
