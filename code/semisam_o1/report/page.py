"""One page about one run: a single HTML file that needs no network and no other file."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from semisam_o1.core.atomic_io import write_text
from semisam_o1.core.errors import InputError
from semisam_o1.core.progress import duration
from semisam_o1.report.advice import advise
from semisam_o1.report.charts import Line, line_chart, smooth
from semisam_o1.report.slices import plane_svg, slices
from semisam_o1.report.tables import anchor, argument_table, case_table, round_table, test_table
from semisam_o1.runs.results import Case, RunResults

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
        ("rounds", "Rounds", _round_charts(results) + round_table(results)),
    ]
    if "test" in groups:
        sections.append(("test-table", "Test metrics", test_table(results)))
    sections += [
        (f"table-{g}", f"{TITLES[g]}, scan by scan", case_table(results, g, cases)) for g, (cases, _) in groups.items()
    ]
    sections += [(f"cases-{g}", f"{TITLES[g]} in pictures", _cards(results, g, *content))
                 for g, content in groups.items()]  # fmt: skip
    sections.append(("arguments", "Arguments", argument_table(results)))
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
        f"{arguments['backbone']} with {arguments['model']}, {arguments['labeled_num']} labeled and {scans} "
        f"unlabeled scans, {rounds} of {arguments['max_iterations']} iterations"
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
        facts.append("refined by its neighbors")
    return (
        f'<article id="{anchor(group, case.name)}" tabindex="-1"><h3>{escape(case.name)}</h3>'
        f'<p>{escape("; ".join(facts))}</p><div class="planes">{pictures}</div></article>'
    )
