"""Advice after a run, in sentences: how it went, and which scans to review first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from semisam_o1.core.errors import listed
from semisam_o1.runs.results import Case, RunResults

MOST_UNCERTAIN = 3  # cases named for review
OUTLIER_DEVIATIONS = 4.0  # robust standard deviations from which on the size of a structure is an outlier


def advise(results: RunResults, groups: Mapping[str, Sequence[Case]]) -> list[str]:
    """Return sentences about a run and its cases by group, 'cohort' and 'test' if it has cases."""
    lines = [*_about_rounds(results), *_about_cases(results, groups.get("cohort", ()))]
    if "test" not in groups:
        lines.append("No test scan has been predicted yet: test_baseline.py, then report.py, adds them to this page.")
    if len(results.records) > 1:
        lines.append(f"Which scan to label next: python code/suggest_template.py --run {results.arguments['exp']}")
    return lines


def size_outliers(sizes: Sequence[float]) -> list[int]:
    """Return the indices of sizes far from the others, by the median absolute deviation of their logarithms."""
    if len(sizes) < 5:
        return []
    logs = np.log(np.maximum(np.asarray(sizes, float), 1.0))
    distances = np.abs(logs - np.median(logs))
    deviation = max(1.4826 * float(np.median(distances)), 0.05)
    return [int(i) for i in np.argsort(-distances, kind="stable") if distances[i] > OUTLIER_DEVIATIONS * deviation]


def _about_rounds(results: RunResults) -> list[str]:
    lines = []
    scored = [record for record in results.records if record.pseudo_dice is not None]
    if len(scored) > 1:
        first, last, best = scored[0], scored[-1], max(scored, key=lambda record: record.pseudo_dice)
        if best is last:
            change = f"Dice {first.pseudo_dice:.3f} in round 0, {last.pseudo_dice:.3f} now"
            lines.append(f"The pseudo-labels were best after the last round: {change}.")
        else:
            change = f"(Dice {best.pseudo_dice:.3f}) and are {last.pseudo_dice:.3f} now"
            advice = "fewer rounds, or more iterations in each, may do better"
            lines.append(f"The pseudo-labels were best in round {best.round} {change}; {advice}.")
    trained = [record.best_iteration for record in results.records if record.trained]
    if trained and set(trained) == {results.arguments["max_iterations"]}:
        lines.append("Validation Dice was still rising at the end of every round: more --max_iterations should help.")
    return lines


def _about_cases(results: RunResults, cases: Sequence[Case]) -> list[str]:
    lines = []
    for c in range(1, results.num_classes):
        name, sizes = results.class_name(c), [case.voxels[c - 1] for case in cases]
        empty = [case.name for case, size in zip(cases, sizes, strict=True) if not size]
        if empty:
            lines.append(f"No {name} was found in {listed(empty, 5)}.")
        unusual = [cases[i].name for i in size_outliers(sizes) if sizes[i]]
        if unusual:
            lines.append(f"The size of {name} is out of the ordinary in {listed(unusual, 5)}.")
    uncertain = sorted((case for case in cases if case.uncertainty is not None), key=lambda case: -case.uncertainty)
    if uncertain:
        names = listed((case.name for case in uncertain[:MOST_UNCERTAIN]), MOST_UNCERTAIN)
        lines.append(f"Highest uncertainty: {names}. Review these first.")
    return lines
