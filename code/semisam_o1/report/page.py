"""The report of a run: a single HTML file that needs no network and no other file."""

from __future__ import annotations

import datetime
import functools
import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import jinja2
import numpy as np

from semisam_o1.commands.outputs import check_folder
from semisam_o1.core.atomic_io import write_text
from semisam_o1.core.errors import InputError, listed
from semisam_o1.core.flags import AT_LEAST_0, CommandConfig, option, shell_command
from semisam_o1.core.terminal import counted, duration
from semisam_o1.drawing import figures
from semisam_o1.drawing.outlines import CLASS_COLORS, class_color
from semisam_o1.methods import METHODS
from semisam_o1.plan.decisions import read_plan
from semisam_o1.refinement.quality import not_to_be_trusted
from semisam_o1.report.earlier import compare, find_earlier
from semisam_o1.report.pictures import Plane, planes
from semisam_o1.runs.best import best_round
from semisam_o1.runs.records import RoundRecord
from semisam_o1.runs.results import Case, LabeledScan, RunResults, read_run

MOST_UNCERTAIN = 3  # cases named for review
OUTLIER_DEVIATIONS = 4.0  # robust standard deviations from which on the size of a structure is an outlier
TEMPLATES = Path(__file__).parent / "templates"
GENERATOR = "SemiSAM-O1 report"
MAX_CASE_BYTES, MAX_PAGE_BYTES = 950_000, 24_000_000  # of the pictures; a page of many cases has smaller ones
MIN_CASE_BYTES = 200_000  # of the pictures, however many cases there are


@dataclass(frozen=True, kw_only=True)
class ReportConfig(CommandConfig):
    """Settings of report.py."""

    run: str = option(None, "the run folder, or the name of its experiment", positional=True, metavar="RUN")
    backbone: str | None = option(None, "which run, where several backbones were trained", choices=tuple(METHODS))
    root_path: Path | None = option(None, "its dataset folder, if that was moved", metavar="DIR")
    out: Path | None = option(None, "the page (default: report.html in the run folder)", metavar="FILE")
    cases: int = option(60, "cases of each list shown with pictures, the worst ones", within=AT_LEAST_0, metavar="N")


class Group(NamedTuple):
    """Scans of a kind: all cases, the worst first, and pictures of the worst ones by name."""

    title: str
    cases: list[Case]
    pictures: dict[str, list[Plane]]


def report(config: ReportConfig) -> None:
    """Write the report of a run and print where it is.

    Raises:
        InputError: if there is no such run, its data has changed, or the file holds something else than a report.
    """
    results = read_run(config.run, config.backbone, config.root_path)
    path = config.out or results.folder.path / "report.html"
    check_folder(path.parent, "--out")
    if path.exists() and (path.is_dir() or GENERATOR not in path.read_text(encoding="utf-8", errors="replace")[:2000]):
        raise InputError(f"{path} exists and is no report; name another --out")
    groups = collect_groups(results, config.cases)
    experiment, backbone = shlex.quote(results.arguments["exp"]), results.arguments["backbone"]
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = templates.get_template("page.html").render(
        generator=GENERATOR,
        title=results.folder.path.parent.name,
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        results=results,
        plan=read_plan(results.folder.plan),
        best=best_round(results.records),
        groups=groups,
        earlier=compare(found, results) if (found := find_earlier(results)) else None,
        advice=advise(results, groups),
        step_charts=[figures.loss_chart(results.steps), figures.validation_chart(results.steps, results.class_name)],
        round_charts=_round_charts(results),
        chart_svg=figures.chart_svg,
        page_colors=figures.PAGE_COLORS,
        class_colors=CLASS_COLORS,
        counted=counted,
        duration=duration,
        export_command=f"{shell_command('predict')} --exp {experiment} --backbone {backbone} --cohort --out labels",
        link=functools.partial(link, page=path),
        mean=statistics.fmean,
    )
    write_text(path, page)
    print(f"written: {path} ({path.stat().st_size / 2**20:.1f} MiB); open it in any browser, it needs no network")


def badness(case: Case) -> tuple[float, float]:
    """Return a key that sorts the worst case first: by Dice, else by expected Dice, else by uncertainty."""
    dice = case.mean_dice if case.dice is not None else statistics.fmean(case.expected) if case.expected else 2.0
    return (dice, -(case.uncertainty or 0.0))


def link(file: Path, page: Path) -> str:
    """Return the address of a file for a page: relative in the page's own folder, so that both can be moved."""
    file, folder = file.resolve(), page.resolve().parent
    return quote(file.relative_to(folder).as_posix()) if file.is_relative_to(folder) else file.as_uri()


def collect_groups(results: RunResults, max_pictures: int) -> dict[str, Group]:
    """Return the scans of a run by kind, without the kinds that it has none of; raises InputError as they do."""
    labeled, validation, tested = results.labeled, results.validation, results.test.get("summary", {}).get("cases", 0)
    scans = {
        "cohort": ("Cohort", results.cohort(), len(results.unlabeled)),
        "test": ("Test", results.tested(), tested),
        "template": ("Template" if len(labeled) == 1 else "Templates", results.own(labeled), len(labeled)),
        "validation": ("Validation", results.own(validation), len(validation)),
    }
    pictured = sum(min(count, max_pictures) for _, _, count in scans.values())
    max_bytes = max(MIN_CASE_BYTES, min(MAX_CASE_BYTES, MAX_PAGE_BYTES // max(1, pictured)))
    groups = {key: _collect(title, found, max_pictures, max_bytes) for key, (title, found, _) in scans.items()}
    return {key: group for key, group in groups.items() if group.cases}


def _collect(title: str, scans: Iterable[LabeledScan], max_pictures: int, max_bytes: int) -> Group:
    cases, pictures = [], {}
    for case, volume, labels in scans:
        cases = sorted([*cases, case], key=badness)
        if case in cases[:max_pictures]:
            pictures[case.name] = planes(volume, labels, max_bytes)
            pictures = {shown.name: pictures[shown.name] for shown in cases[:max_pictures]}
    return Group(title, cases, pictures)


def _round_charts(results: RunResults) -> list[figures.Chart]:
    def curve(value: Callable[[RoundRecord], float | None], c: int = 0) -> figures.Curve:
        """Return a value of every round where it is known, of class ``c`` or of the cohort."""
        known = {record.round: value(record) for record in results.records if value(record) is not None}
        name, color = (results.class_name(c), class_color(c)) if c else ("cohort", figures.INK)
        return figures.Curve(name, list(known), list(known.values()), color)

    dice = [
        curve(lambda r, i=c - 1: r.pseudo_dice and r.pseudo_dice_per_class[i], c) for c in range(1, results.num_classes)
    ]
    uncertainty, foreground = curve(lambda r: r.uncertainty), curve(lambda r: 100 * r.foreground_ratio)
    return [
        figures.Chart("Pseudo-label Dice", dice, "round", figures.dice_range(dice)),
        figures.Chart("Uncertainty, mean entropy in nats", [uncertainty], "round"),
        figures.Chart("Foreground, % of all voxels", [foreground], "round"),
    ]


def advise(results: RunResults, groups: Mapping[str, Group]) -> list[str]:
    """Return sentences about a run and its groups, 'cohort' and 'test' where they have cases."""
    lines = _about_rounds(results) + (_about_cases(results, groups["cohort"].cases) if "cohort" in groups else [])
    if "test" not in groups:
        lines.append("No test scan has been predicted yet: test_baseline.py, then report.py, adds them to this page.")
    if len(results.records) > 1:
        lines.append(f"Which scan to label next: {shell_command('suggest')} --run {results.arguments['exp']}")
    return lines


def _about_rounds(results: RunResults) -> list[str]:
    lines = []
    if turned := results.records[0].turned:
        scans = listed(turned, 8)
        lines.append(f"In another orientation than the template, by the look of them: {scans}. Their labels follow it.")
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
    trained = {record.best_iteration for record in results.records if record.trained}
    if trained and not results.validated:
        lines.append("No validation label: the last network of each round was kept, and its quality was not measured.")
    elif trained == {results.arguments["max_iterations"]}:
        lines.append("Validation Dice was still rising at the end of every round: more --max_iterations should help.")
    best = best_round(results.records)
    if best.decision_bias is not None:
        shifts = ", ".join(f"{results.class_name(c)} {best.decision_bias[c]:+.2f}" for c in results.class_names)
        told = f"which changed the Dice of validation scans left out of the estimate by {best.decision_gain:+.3f}"
        lines.append(f"The decision of the best network is shifted by {shifts} (nats), {told}.")
    if best.correction_gain is not None:
        told = f"the labels of the cohort changes the Dice of validation scans by {best.correction_gain:+.3f}"
        lines.append(f"Correction by {told}; other scans are {'' if best.corrects else 'not '}corrected.")
    return lines


def _about_cases(results: RunResults, cases: Sequence[Case]) -> list[str]:
    lines = []
    for c in range(1, results.num_classes):
        name, sizes = results.class_name(c), [case.voxels[c - 1] for case in cases]
        empty = [case.name for case in cases if not case.voxels[c - 1]]
        if empty:
            lines.append(f"No {name} was found in {listed(empty, 5)}.")
        unusual = [cases[i].name for i in size_outliers(sizes) if sizes[i]]
        if unusual:
            lines.append(f"The size of {name} is out of the ordinary in {listed(unusual, 5)}.")
    if remark := not_to_be_trusted({case.name: case.expected for case in cases if case.expected}):
        lines.append(f"{remark[0].upper()}{remark[1:]}.")
    uncertain = sorted((case for case in cases if case.uncertainty is not None), key=lambda case: -case.uncertainty)
    if uncertain:
        names = [case.name for case in uncertain[:MOST_UNCERTAIN]]
        lines.append(f"Highest uncertainty: {', '.join(names)}. Review these first.")
    return lines


def size_outliers(sizes: Sequence[float]) -> list[int]:
    """Return the indices of sizes far from the others, by the median absolute deviation of their logarithms."""
    if len(sizes) < 5:
        return []
    logs = np.log(np.maximum(sizes, 1.0))
    distances = np.abs(logs - np.median(logs))
    limit = OUTLIER_DEVIATIONS * max(1.4826 * np.median(distances), 0.05)
    return [int(i) for i in np.argsort(-distances, kind="stable") if distances[i] > limit]
