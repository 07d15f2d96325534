"""The tables of a report, in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from semisam_o1.core.progress import duration
from semisam_o1.evaluation.tables import HEADINGS
from semisam_o1.runs.results import Case, RunResults


def round_table(results: RunResults) -> str:
    """Return the table of the rounds."""
    headings = [
        "round",
        "pseudo-label Dice",
        "uncertainty",
        "refined scans",
        "validation Dice",
        "best iteration",
        "time",
    ]
    rows = [
        [
            (str(r["round"]), r["round"]),
            _cell(r.get("pseudo_dice")),
            _cell(r.get("uncertainty")),
            (str(len(r["refined"])), len(r["refined"])),
            _cell(r.get("validation_dice")),
            (str(r["best_iteration"]), r["best_iteration"]) if "best_iteration" in r else ("–", None),
            (duration(r["seconds"]), r["seconds"]),
        ]
        for r in results.records
    ]
    return _table("rounds", headings, rows, sortable=False)


def test_table(results: RunResults) -> str:
    """Return the metrics of the last test, class by class."""
    summary = results.test["summary"]
    keys = [key for key in ("dice", "jaccard", "hd95", "asd", "hd95_mm", "asd_mm") if key in summary["overall"]]
    headings = ["class", *(_metric_heading(key) for key in keys)]
    groups = [*((results.class_name(int(c)), s) for c, s in summary["classes"].items()), ("all", summary["overall"])]
    rows = [
        [
            (name, name),
            *((f"{s[k]['mean']:.3f} ± {s[k]['std']:.3f}", s[k]["mean"]) if k in s else ("–", None) for k in keys),
        ]
        for name, s in groups
    ]
    note = f"<p>Mean ± standard deviation over {summary['cases']} scans of {escape(results.test['test_list'])}"
    if summary["empty"]:
        note += f"; {summary['empty']} times prediction or label was empty and a convention stood in"
    return note + ".</p>" + _table("test-summary", headings, rows, sortable=False)


def case_table(results: RunResults, group: str, cases: Sequence[Case]) -> str:
    """Return the table of a group of scans, each leading to its pictures."""
    classes = range(1, results.num_classes)
    scored = any(case.dice for case in cases)
    in_ml = all(case.milliliters is not None for case in cases)
    several = results.num_classes > 2
    headings = ["scan"]
    if scored:
        headings += ["Dice", *(f"Dice {results.class_name(c)}" for c in classes if several)]
        headings += ["round 0"] * (group == "cohort") + [f"95HD [{'mm' if in_ml else 'voxel'}]"]
    headings += [f"{results.class_name(c)} [{'ml' if in_ml else 'voxels'}]" for c in classes]
    headings += ["uncertainty", "refined"] * (group == "cohort")
    rows = []
    for case in cases:
        row = [(case.name, case.name)]
        if scored:
            row += [_cell(case.mean_dice), *(_cell(case.dice and case.dice[c - 1]) for c in classes if several)]
            row += [_cell(float(np.mean(case.first_dice)) if case.first_dice else None)] * (group == "cohort")
            row += [_cell(case.hd95, 2)]
        row += [_cell(value, 2 if in_ml else 0) for value in (case.milliliters if in_ml else case.voxels)]
        if group == "cohort":
            row += [_cell(case.uncertainty, 4), ("yes" if case.refined else "–", int(case.refined))]
        rows.append(row)
    finder = (
        f'<label class="find">find a scan <input type="search" data-table="{group}" autocomplete="off"></label>'
        if len(cases) > 8
        else ""
    )
    return f"<p>A click on a heading sorts, a second one reverses.</p>{finder}" + _table(
        group, headings, rows, link=group
    )


def argument_table(results: RunResults) -> str:
    """Return what a run was started with, folded up."""
    rows = [[(f"--{name}", name), (str(value), None)] for name, value in results.arguments.items()]
    keys = ("precision", "device", "processes", "git", "versions", "preparation")
    extra = [[(key, key), (str(results.content[key]), None)] for key in keys if results.content.get(key) is not None]
    table = _table("arguments", ["", ""], rows + extra, sortable=False)
    return f"<details><summary>All arguments and versions</summary>{table}</details>"


def anchor(group: str, name: str) -> str:
    """Return the name of a scan as the target of a link."""
    return f"{group}-" + "".join(c if c.isalnum() or c in "-_" else f"_{ord(c):x}_" for c in name)


def _metric_heading(key: str) -> str:
    name = HEADINGS[key.removesuffix("_mm")]
    return f"{name} [mm]" if key.endswith("_mm") else f"{name} [voxel]" if key in ("hd95", "asd") else name


def _table(
    key: str, headings: Sequence[str], rows: Sequence[Sequence[tuple[str, Any]]], sortable: bool = True, link: str = ""
) -> str:
    """Return a table; a cell is its text and the value that it is sorted by (None sorts last)."""
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(heading)}</button></th>' if sortable
        else f'<th scope="col">{escape(heading)}</th>'
        for heading in headings
    )  # fmt: skip
    lines = []
    for row in rows:
        cells = []
        for i, (text, value) in enumerate(row):
            content = escape(text)
            if i == 0:
                content = f'<a href="#{anchor(link, text)}">{content}</a>' if link else content
                cells.append(f'<th scope="row" data-value="{escape(str(value))}">{content}</th>')
            else:
                cells.append(f'<td data-value="{"" if value is None else escape(str(value))}">{content}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table {escape(key)}"><table id="t-{key}"{kind}>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(value: float | None, digits: int = 3) -> tuple[str, float | None]:
    return ("–", None) if value is None else (f"{value:.{digits}f}", float(value))
