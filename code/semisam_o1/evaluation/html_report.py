"""One page about one run: a single HTML file that needs no network and no other file."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import write_text
from ..progress import duration
from .advice import advise
from .charts import Line, line_chart, smooth
from .run_results import Case, RunResults
from .slices import plane_svg, slices
from .tables import HEADINGS

ASSETS = Path(__file__).parent / "assets"
GENERATOR = "SemiSAM-O1 report"
TITLES = {"cohort": "Cohort", "test": "Test"}
KINDS = {"truth": "true label", "first": "round 0", "prediction": "prediction"}
# Everything is in the page: a browser that obeys this fetches nothing, whatever a name or a path in it holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(results: RunResults, path: Path, max_cases: int = 60) -> None:
    """Write the report of a run.

    Args:
        max_cases: how many cases are shown with pictures, the worst of each group; the tables have all.

    Raises:
        InputError: if ``path`` holds something else than a report.
    """
    if path.exists() and (path.is_dir() or GENERATOR not in path.read_text(encoding="utf-8", errors="replace")[:2000]):
        raise InputError(f"{path} exists and is no report; name another --out")
    groups = {
        group: _collect(cases, max_cases) for group, cases in (("cohort", results.cohort()), ("test", results.tested()))
    }
    page = _page(results, {group: content for group, content in groups.items() if content[0]})
    write_text(path, page)


def badness(case: Case) -> tuple[float, float]:
    """Return a key that sorts the worst case first: by Dice, else by uncertainty."""
    return (case.mean_dice if case.dice is not None else 2.0, -(case.uncertainty or 0.0))


def _collect(cases: Iterable[tuple], max_cases: int) -> tuple[list[Case], dict[str, str]]:
    """Return the cases, worst first, and the pictures of the worst ones by name."""
    found, pictures = [], {}
    for case, volume, labels in cases:
        found.append(case)
        pictures[case.name] = _pictures(case, volume, labels)
        if len(pictures) > max_cases:  # never hold the pictures of a large cohort all at once
            best = max((case for case in found if case.name in pictures), key=badness)
            del pictures[best.name]
    return sorted(found, key=badness), pictures


def _pictures(case: Case, volume: Any, labels: dict[str, np.ndarray]) -> str:
    parts = []
    for plane in slices(volume, labels):
        title = f"{case.name}, {plane.name} slice {plane.index}"
        sides = "".join(f'<i class="{side}">{letter}</i>' for side, letter in zip("lrtb", plane.sides, strict=False))
        parts.append(
            f'<button type="button" class="zoom" aria-label="enlarge {escape(title)}">{plane_svg(plane, title)}{sides}'
            f"</button>"
        )
    return "".join(parts)


def _page(results: RunResults, groups: dict[str, tuple[list[Case], dict[str, str]]]) -> str:
    title = results.folder.path.parent.name
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    sections = [
        ("summary", "Summary", _tiles(results, groups) + _advice(results, groups)),
        ("curves", "Training", _curves(results)),
        ("rounds", "Rounds", _round_charts(results) + _round_table(results)),
    ]
    if "test" in groups:
        sections.append(("test-table", "Test metrics", _test_summary(results)))
    sections += [
        (f"table-{g}", f"{TITLES[g]}, scan by scan", _case_table(results, g, cases)) for g, (cases, _) in groups.items()
    ]
    sections += [(f"cases-{g}", f"{TITLES[g]} in pictures", _cards(results, g, *content))
                 for g, content in groups.items()]  # fmt: skip
    sections.append(("arguments", "Arguments", _arguments(results)))
    links = "".join(f'<a href="#{key}">{escape(heading)}</a>' for key, heading, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{escape(heading)}</h2>{content}</section>' for key, heading, content in sections
    )
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="{GENERATOR}">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<a class="skip" href="#summary">to the content</a><header><h1>{escape(title)}</h1>'
        f"<p>{_subtitle(results)}; written {now}</p><nav aria-label=\"sections\">{links}</nav></header>"
        f'<main class="show-truth show-first show-prediction">{body}</main>'
        '<dialog id="large" aria-label="enlarged slice"><form method="dialog"><button>close</button></form>'
        f"<div></div></dialog><script>{script}</script></body></html>\n"
    )  # fmt: skip


def _subtitle(results: RunResults) -> str:
    arguments = results.arguments
    scans = len(results.dataset.names("train.txt")) - arguments["labeled_num"]
    done = len(results.records) - 1
    rounds = f"{done} of {arguments['num_rounds']} rounds" if done < arguments["num_rounds"] else f"{done} rounds"
    return escape(
        f"{arguments['backbone']} with {arguments['model']}, {arguments['labeled_num']} labelled and {scans} "
        f"unlabelled scans, {rounds} of {arguments['max_iterations']} iterations"
    )


def _tiles(results: RunResults, groups: dict[str, tuple[list[Case], dict[str, str]]]) -> str:
    records = results.records
    tiles = []
    if "test" in groups:
        overall = results.test["summary"]["overall"]["dice"]
        tiles.append(
            ("test Dice", f"{overall['mean']:.3f}", f"± {overall['std']:.3f} over {len(groups['test'][0])} scans")
        )
    best = max((r for r in records if "validation_dice" in r), key=lambda r: r["validation_dice"], default=None)
    if best:
        tiles.append(("validation Dice", f"{best['validation_dice']:.3f}",
                      f"best in round {best['round']}, iteration {best['best_iteration']}"))  # fmt: skip
    known = [record["pseudo_dice"] for record in records if record.get("pseudo_dice") is not None]
    if known:
        change = f"{known[0]:.3f} in round 0" if len(known) > 1 else "round 0"
        tiles.append(("pseudo-label Dice", f"{known[-1]:.3f}", change))
    seconds = sum(record.get("seconds", 0) for record in records)
    tiles.append(("time", duration(seconds), f"{len(records)} rounds with round 0"))
    return '<dl class="tiles">' + "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in tiles
    ) + "</dl>"  # fmt: skip


def _advice(results: RunResults, groups: dict[str, tuple[list[Case], dict[str, str]]]) -> str:
    lines = advise(results, {group: cases for group, (cases, _) in groups.items()})
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h3>Worth knowing</h3><ul>{items}</ul>" if lines else ""


def _curves(results: RunResults) -> str:
    rounds: dict[int, list[tuple[int, float]]] = {}
    for row in results.steps:
        if "loss/total" in row:
            rounds.setdefault(row["round"], []).append((row["step"], row["loss/total"]))
    lines = []
    for number, points in rounds.items():
        x, y = zip(*points, strict=True)
        lines += [Line(f"round {number}", x, y, number, faint=True), Line(f"round {number}", x, smooth(y), number)]
    charts = [line_chart("Training loss, and its running mean", lines, "iteration, over all rounds")]
    scores = [row for row in results.steps if "validation/dice" in row]
    steps = [row["step"] for row in scores]
    lines = [
        Line(
            results.class_name(c), steps, [row[f"validation/dice_class{c}"] for row in scores], c, marks=len(steps) < 80
        )
        for c in range(1, results.num_classes)
        if scores and f"validation/dice_class{c}" in scores[0]
    ]
    if len(lines) > 1:
        lines.append(Line("mean", steps, [row["validation/dice"] for row in scores], 0, marks=len(steps) < 80))
    charts.append(line_chart("Validation Dice", lines, "iteration, over all rounds", (0, 1)))
    return _grid(charts) or "<p>No iteration has been logged yet.</p>"


def _round_charts(results: RunResults) -> str:
    records = results.records
    scored = [record for record in records if record.get("pseudo_dice_per_class")]
    lines = [
        Line(
            results.class_name(c),
            [r["round"] for r in scored],
            [r["pseudo_dice_per_class"][c - 1] for r in scored],
            c,
            True,
        )
        for c in range(1, results.num_classes)
    ]
    unsure = [record for record in records if record.get("uncertainty") is not None]
    charts = [
        line_chart("Pseudo-label Dice", lines, "round", whole_x=True),
        line_chart(
            "Uncertainty, mean entropy in nats",
            [Line("cohort", [r["round"] for r in unsure], [r["uncertainty"] for r in unsure], 1, True)],
            "round", whole_x=True,
        ),
        line_chart(
            "Foreground, % of all voxels",
            [Line("cohort", [r["round"] for r in records], [100 * r["foreground_ratio"] for r in records], 1, True)],
            "round", whole_x=True,
        ),
    ]  # fmt: skip
    return _grid(charts)


def _grid(charts: Sequence[str]) -> str:
    drawn = "".join(charts)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def _round_table(results: RunResults) -> str:
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


def _test_summary(results: RunResults) -> str:
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


def _metric_heading(key: str) -> str:
    name = HEADINGS[key.removesuffix("_mm")]
    return f"{name} [mm]" if key.endswith("_mm") else f"{name} [voxel]" if key in ("hd95", "asd") else name


def _case_table(results: RunResults, group: str, cases: Sequence[Case]) -> str:
    classes = range(1, results.num_classes)
    scored = any(case.dice for case in cases)
    in_ml = all(case.millilitres is not None for case in cases)
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
        row += [_cell(value, 2 if in_ml else 0) for value in (case.millilitres if in_ml else case.voxels)]
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
                content = f'<a href="#{_anchor(link, text)}">{content}</a>' if link else content
                cells.append(f'<th scope="row" data-value="{escape(str(value))}">{content}</th>')
            else:
                cells.append(f'<td data-value="{"" if value is None else escape(str(value))}">{content}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table {escape(key)}"><table id="t-{key}"{kind}>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cards(results: RunResults, group: str, cases: Sequence[Case], pictures: dict[str, str]) -> str:
    shown = [case for case in cases if case.name in pictures]
    kinds = [kind for kind in KINDS if any(f'class="{kind}"' in picture for picture in pictures.values())]
    switches = "".join(
        f'<label><input type="checkbox" data-kind="{kind}" checked><span class="swatch {kind}"></span>{KINDS[kind]}'
        "</label>"
        for kind in kinds
    )
    order = "by Dice" if any(case.dice for case in shown) else "by uncertainty"
    left = f" The {len(shown)} worst of {len(cases)} are shown." if len(shown) < len(cases) else ""
    cards = "".join(_card(results, group, case, pictures[case.name]) for case in shown)
    return (
        f"<p>Worst first, {order}.{left} A click enlarges a slice; the outlines can be switched.</p>"
        f'<fieldset class="switches"><legend>outlines</legend>{switches}</fieldset><div class="cards">{cards}</div>'
    )


def _card(results: RunResults, group: str, case: Case, pictures: str) -> str:
    facts = []
    if case.dice is not None:
        facts.append(f"Dice {case.mean_dice:.3f}")
        if results.num_classes > 2:
            facts[-1] += " (" + ", ".join(f"{results.class_name(c + 1)} {d:.3f}" for c, d in enumerate(case.dice)) + ")"
    if case.first_dice is not None and len(results.records) > 1:
        facts.append(f"round 0 {np.mean(case.first_dice):.3f}")
    if case.uncertainty is not None:
        facts.append(f"uncertainty {case.uncertainty:.4f}")
    if case.refined:
        facts.append("refined by its neighbours")
    return (
        f'<article id="{_anchor(group, case.name)}" tabindex="-1"><h3>{escape(case.name)}</h3>'
        f'<p>{escape("; ".join(facts))}</p><div class="planes">{pictures}</div></article>'
    )


def _anchor(group: str, name: str) -> str:
    return f"{group}-" + "".join(c if c.isalnum() or c in "-_" else f"_{ord(c):x}_" for c in name)


def _arguments(results: RunResults) -> str:
    rows = [[(f"--{name}", name), (str(value), None)] for name, value in results.arguments.items()]
    keys = ("precision", "device", "processes", "git", "versions", "preparation")
    extra = [[(key, key), (str(results.content[key]), None)] for key in keys if results.content.get(key) is not None]
    table = _table("arguments", ["", ""], rows + extra, sortable=False)
    return f"<details><summary>All arguments and versions</summary>{table}</details>"


def _cell(value: float | None, digits: int = 3) -> tuple[str, float | None]:
    return ("–", None) if value is None else (f"{value:.{digits}f}", float(value))
