"""The report of a run: a single HTML file that needs no network and no other file."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from semisam_o1.core.atomic_io import write_text
from semisam_o1.core.errors import InputError
from semisam_o1.core.flags import AT_LEAST_0, check_ranges, option
from semisam_o1.core.progress import duration
from semisam_o1.drawing.curves import Chart, Curve, chart_svg, loss_chart, page_color, validation_chart
from semisam_o1.drawing.style import INK, class_color
from semisam_o1.methods import METHODS
from semisam_o1.report.advice import advise
from semisam_o1.report.slices import Slice, slices
from semisam_o1.runs.records import best_round
from semisam_o1.runs.results import Case, LabeledScan, RunResults, read_run

TEMPLATES = Path(__file__).parent / "templates"
GENERATOR = "SemiSAM-O1 report"


@dataclass(frozen=True)
class ReportConfig:
    """Settings of report.py."""

    run: str = option(None, "the run folder, or the name of its experiment", positional=True, metavar="RUN")
    backbone: str | None = option(None, "which run, where several backbones were trained", choices=tuple(METHODS))
    out: Path | None = option(None, "the page (default: report.html in the run folder)", metavar="FILE")
    cases: int = option(60, "cases of each list shown with pictures, the worst ones", within=AT_LEAST_0, metavar="N")
    debug: bool = option(False, "show tracebacks", action="store_true")

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Group:
    """Scans of a kind.

    Attributes:
        cases: all of them, the worst first.
        pictures: slices of the worst cases by name.
    """

    title: str
    cases: list[Case]
    pictures: dict[str, list[Slice]]

    @property
    def kinds(self) -> set[str]:
        """Kinds of labels outlined in the pictures."""
        return {kind for planes in self.pictures.values() for kind in planes[0].outlines}


def report(config: ReportConfig) -> None:
    """Write the report of a run and print where it is.

    Raises:
        InputError: if there is no such run, its data has changed, or the file holds something else than a report.
    """
    results = read_run(config.run, config.backbone)
    path = config.out or results.folder.path / "report.html"
    if path.exists() and (path.is_dir() or GENERATOR not in path.read_text(encoding="utf-8", errors="replace")[:2000]):
        raise InputError(f"{path} exists and is no report; name another --out")
    groups = {
        "cohort": _collect("Cohort", results.cohort(), config.cases),
        "test": _collect("Test", results.tested(), config.cases),
    }
    groups = {key: group for key, group in groups.items() if group.cases}
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.globals |= {
        "anchor": anchor,
        "chart_svg": chart_svg,
        "duration": duration,
        "page_color": page_color,
        "mean": lambda values: None if values is None else float(np.mean(values)),
    }
    page = templates.get_template("page.html").render(
        generator=GENERATOR,
        title=results.folder.path.parent.name,
        results=results,
        groups=groups,
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        tiles=_tiles(results, groups),
        advice=advise(results, {key: group.cases for key, group in groups.items()}),
        step_charts=_drawable([loss_chart(results.steps), validation_chart(results.steps, results.class_name)]),
        round_charts=_drawable(_round_charts(results)),
    )
    write_text(path, page)
    print(f"written: {path} ({path.stat().st_size / 2**20:.1f} MiB); open it in any browser, it needs no network")


def badness(case: Case) -> tuple[float, float]:
    """Return a key that sorts the worst case first: by Dice, else by uncertainty."""
    return (case.mean_dice if case.dice is not None else 2.0, -(case.uncertainty or 0.0))


def anchor(group: str, name: str) -> str:
    """Return the name of a scan as the target of a link."""
    return f"{group}-" + "".join(c if c.isalnum() or c in "-_" else f"_{ord(c):x}_" for c in name)


def _collect(title: str, scans: Iterable[LabeledScan], max_pictures: int) -> Group:
    cases, pictures = [], {}
    for case, volume, labels in scans:
        cases.append(case)
        pictures[case.name] = slices(volume, labels)
        if len(pictures) > max_pictures:  # never hold the pictures of a large cohort all at once
            del pictures[max((case for case in cases if case.name in pictures), key=badness).name]
    return Group(title, sorted(cases, key=badness), pictures)


def _tiles(results: RunResults, groups: dict[str, Group]) -> list[tuple[str, str, str]]:
    """Return (name, value, note) of the figures on top of the page."""
    records, tiles = results.records, []
    if "test" in groups:
        overall = results.test["summary"]["overall"]["dice"]
        note = f"± {overall['std']:.3f} over {len(groups['test'].cases)} scans"
        tiles.append(("test Dice", f"{overall['mean']:.3f}", note))
    best = best_round(records)
    if best.trained:
        note = f"best in round {best.round}, iteration {best.best_iteration}"
        tiles.append(("validation Dice", f"{best.validation_dice:.3f}", note))
    known = [record.pseudo_dice for record in records if record.pseudo_dice is not None]
    if known:
        note = f"{known[0]:.3f} in round 0" if len(known) > 1 else "round 0"
        tiles.append(("pseudo-label Dice", f"{known[-1]:.3f}", note))
    tiles.append(("time", duration(sum(r.seconds for r in records)), f"{len(records)} rounds with round 0"))
    return tiles


def _round_charts(results: RunResults) -> list[Chart]:
    records = results.records
    scored = [record for record in records if record.pseudo_dice_per_class]
    dice = [
        Curve(
            results.class_name(c),
            [r.round for r in scored],
            [r.pseudo_dice_per_class[c - 1] for r in scored],
            class_color(c),
        )
        for c in range(1, results.num_classes)
    ]
    unsure = [record for record in records if record.uncertainty is not None]
    entropy = Curve("cohort", [r.round for r in unsure], [r.uncertainty for r in unsure], INK)
    foreground = Curve("cohort", [r.round for r in records], [100 * r.foreground_ratio for r in records], INK)
    charts = {"Pseudo-label Dice": dice, "Uncertainty, mean entropy in nats": [entropy]}
    charts["Foreground, % of all voxels"] = [foreground]
    return [Chart(title, curves, "round", integer_x=True) for title, curves in charts.items()]


def _drawable(charts: Iterable[Chart]) -> list[Chart]:
    return [chart for chart in charts if any(len(curve.x) for curve in chart.curves)]
