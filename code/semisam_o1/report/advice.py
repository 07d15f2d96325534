"""What a person should look at after a run, in sentences, from the run's own figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from semisam_o1.runs.results import Case, RunResults

FEW = 3
ODD_DEVIATIONS = 4.0  # robust ones, from which on the size of a structure is called odd


def advise(results: RunResults, groups: Mapping[str, Sequence[Case]]) -> list[str]:
    """Return sentences about a run: what went well or badly, and which scans to look at first."""
    return [*_about_rounds(results), *_about_cases(results, groups.get("cohort", ())), *_next(results, groups)]


def _about_rounds(results: RunResults) -> list[str]:
    records, lines = results.records, []
    known = [(r["round"], r["pseudo_dice"]) for r in records if r.get("pseudo_dice") is not None]
    if len(known) > 1:
        best = max(known, key=lambda pair: pair[1])
        if best[0] == known[-1][0]:
            lines.append(f"The pseudo-labels were best after the last round: Dice {known[0][1]:.3f} in round 0, "
                         f"{best[1]:.3f} now.")  # fmt: skip
        else:
            lines.append(
                f"The pseudo-labels were best in round {best[0]} (Dice {best[1]:.3f}) and are {known[-1][1]:.3f} now; "
                "fewer rounds, or more iterations in each, may do better."
            )
    trained = [r for r in records if "best_iteration" in r]
    late = [r["round"] for r in trained if r["best_iteration"] == results.arguments["max_iterations"]]
    if trained and len(late) == len(trained):
        lines.append("Validation Dice was still rising at the end of every round: more --max_iterations should help.")
    return lines


def _about_cases(results: RunResults, cases: Sequence[Case]) -> list[str]:
    lines = []
    for c in range(1, results.num_classes):
        empty = [case.name for case in cases if not case.voxels[c - 1]]
        if empty:
            lines.append(f"No {results.class_name(c)} was found in {_names(empty)}.")
        odd = odd_sizes([case.voxels[c - 1] for case in cases])
        names = [cases[i].name for i in odd if cases[i].voxels[c - 1]]
        if names:
            lines.append(f"The size of {results.class_name(c)} is out of the ordinary in {_names(names)}.")
    unsure = sorted((case for case in cases if case.uncertainty is not None), key=lambda case: -case.uncertainty)
    if unsure:
        lines.append(f"Least sure of {_names([case.name for case in unsure[:FEW]], FEW)}: look at these first.")
    return lines


def _next(results: RunResults, groups: Mapping[str, Sequence[Case]]) -> list[str]:
    lines = []
    if "test" not in groups:
        lines.append(
            "No test scan has been predicted yet: test_baseline.py, then report.py once more, adds them to this page."
        )
    if len(results.records) > 1:
        lines.append(f"Which scan to label next: python code/suggest_template.py --run {results.arguments['exp']}")
    return lines


def odd_sizes(sizes: Sequence[float]) -> list[int]:
    """Return the indices of sizes far from the others, by the median absolute deviation of their logarithms."""
    if len(sizes) < 5:
        return []
    logs = np.log(np.maximum(np.asarray(sizes, float), 1.0))
    center = np.median(logs)
    deviation = max(1.4826 * float(np.median(np.abs(logs - center))), 0.05)
    far = np.flatnonzero(np.abs(logs - center) > ODD_DEVIATIONS * deviation)
    return sorted(far.tolist(), key=lambda i: -abs(logs[i] - center))


def _names(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
