"""A run compared with the one before it, which had fewer labeled scans of the same dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semisam_o1.core.atomic_io import read_json
from semisam_o1.core.errors import InputError
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.runs.best import best_round
from semisam_o1.runs.records import RoundLabels, open_round
from semisam_o1.runs.results import RunResults, read_run

MOST_CHANGED = 5  # scans named


@dataclass(frozen=True)
class Comparison:
    """Figures of two runs on the scans that neither had a label of.

    Attributes:
        name: of the earlier run's folder.
        added: names of the scans whose labels are new.
        rows: what is compared → (before, after), None for what a run does not know.
        scans: number of compared scans.
        agreement: mean foreground Dice between the last labels of both.
        changed: the scans whose labels agree least, and how much, the least first.
    """

    name: str
    added: list[str]
    rows: dict[str, tuple[float | None, float | None]]
    scans: int
    agreement: float
    changed: list[tuple[str, float]]


def find_earlier(results: RunResults) -> RunResults | None:
    """Return the run beside this one with the next smaller number of labeled scans of the dataset, None without one."""
    labeled, found = results.arguments["labeled_num"], []
    for path in sorted(results.folder.path.parents[1].glob("*/*/args.json")):
        try:
            arguments = (read_json(path, "") or {}).get("arguments", {})
            same = all(
                arguments.get(key) == results.arguments[key] for key in ("root_path", "num_classes", "image_key")
            )
            if same and 0 < arguments["labeled_num"] < labeled:
                found.append((arguments["labeled_num"], path.stat().st_mtime, path.parent))
        except (InputError, AttributeError, KeyError, TypeError):
            continue  # of something else
    for _, _, folder in sorted(found, reverse=True):
        try:
            return read_run(folder, root_path=Path(results.arguments["root_path"]))
        except InputError:  # not finished
            continue
    return None


def compare(before: RunResults, after: RunResults) -> Comparison | None:
    """Compare two runs by their last labels; None where they have no unlabeled scan in common."""
    with ExitStack() as stack:
        old, new = (
            stack.enter_context(open_round(run.folder.pseudo_labels(run.records[-1].round))) for run in (before, after)
        )
        names = [name for name in after.unlabeled if name in old.names and name in new.names]
        agreements = {name: _agreement(old.label(name), new.label(name), after.num_classes) for name in names}
        known = sorted((value, name) for name, value in agreements.items() if value is not None)
        if not known:
            return None
        rows = {
            "Dice of the labels": [_mean(labels.dice(name) for name in names) for labels in (old, new)],
            "expected Dice of the labels": [_mean(map(_expected(labels), names)) for labels in (old, new)],
            "uncertainty [nats]": [_mean(labels.uncertainty(name) for name in names) for labels in (old, new)],
            "validation Dice": [best_round(run.records).validation_dice for run in (before, after)],
            "test Dice": [_test_dice(run) for run in (before, after)],
        }
    return Comparison(
        before.folder.path.parent.name,
        after.labeled[before.arguments["labeled_num"] :],
        {what: tuple(pair) for what, pair in rows.items() if pair != [None, None]},
        len(known),
        float(np.mean([value for value, _ in known])),
        [(name, value) for value, name in known[:MOST_CHANGED]],
    )


def _agreement(old: np.ndarray, new: np.ndarray, num_classes: int) -> float | None:
    """Return the mean foreground Dice of two label maps; None where the scan was prepared otherwise."""
    return float(np.mean(dice_per_class(new, old, num_classes))) if old.shape == new.shape else None


def _expected(labels: RoundLabels) -> Callable[[str], float | None]:
    """Return a function: name of a scan → Dice that is expected of its label, mean over the classes."""

    def expected(name: str) -> float | None:
        values = labels.expected(name)
        return None if values is None else float(np.mean(values))

    return expected


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _test_dice(run: RunResults) -> float | None:
    return run.test.get("summary", {}).get("overall", {}).get("dice", {}).get("mean")
