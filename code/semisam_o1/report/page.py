"""The report of a run: a single HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
import datetime
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from PIL import Image

from semisam_o1.commands.outputs import check_folder
from semisam_o1.core.atomic_io import write_text
from semisam_o1.core.errors import InputError, listed
from semisam_o1.core.flags import AT_LEAST_0, CommandConfig, option, shell_command
from semisam_o1.core.terminal import duration
from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.data.preparation.grid import reoriented, resample
from semisam_o1.drawing import figures
from semisam_o1.drawing.outlines import gray_values, largest_slice, svg_path
from semisam_o1.methods import METHODS
from semisam_o1.runs.records import RoundRecord, best_round
from semisam_o1.runs.results import Case, LabeledScan, RunResults, read_run

MOST_UNCERTAIN = 3  # cases named for review
OUTLIER_DEVIATIONS = 4.0  # robust standard deviations from which on the size of a structure is an outlier
TEMPLATES = Path(__file__).parent / "templates"
GENERATOR = "SemiSAM-O1 report"
ORIENTATION = "LPS"  # radiological display: the patient's right is on the left, front and head are on top
# The axis through the slices, and the patient's sides on the left, right, top and bottom.
PLANES = {"axial": (2, "RLAP"), "coronal": (1, "RLSI"), "sagittal": (0, "APSI")}


@dataclass(frozen=True, kw_only=True)
class ReportConfig(CommandConfig):
    """Settings of report.py."""

    run: str = option(None, "the run folder, or the name of its experiment", positional=True, metavar="RUN")
    backbone: str | None = option(None, "which run, where several backbones were trained", choices=tuple(METHODS))
    root_path: Path | None = option(None, "its dataset folder, if that was moved", metavar="DIR")
    out: Path | None = option(None, "the page (default: report.html in the run folder)", metavar="FILE")
    cases: int = option(60, "cases of each list shown with pictures, the worst ones", within=AT_LEAST_0, metavar="N")


class Slice(NamedTuple):
    """One slice through a volume."""

    name: str
    index: int
    image: str  # JPEG as a data URI
    width: float  # mm
    height: float
    outlines: dict[str, str]  # SVG path data in mm, by kind of label
    sides: str  # letters on the left, right, top and bottom; empty where they are not known


class Group(NamedTuple):
    """Scans of a kind: all cases, the worst first, and slices of the worst ones by name."""

    title: str
    cases: list[Case]
    pictures: dict[str, list[Slice]]


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
    scans = {"cohort": results.cohort(), "test": results.tested()}
    groups = {key: group for key in scans if (group := _collect(key.title(), scans[key], config.cases)).cases}
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = templates.get_template("page.html").render(
        generator=GENERATOR,
        title=results.folder.path.parent.name,
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        results=results,
        best=best_round(results.records),
        groups=groups,
        advice=advise(results, groups),
        step_charts=[figures.loss_chart(results.steps), figures.validation_chart(results.steps, results.class_name)],
        round_charts=_round_charts(results),
        chart_svg=figures.chart_svg,
        page_colors=figures.PAGE_COLORS,
        duration=duration,
        mean=statistics.fmean,
    )
    write_text(path, page)
    print(f"written: {path} ({path.stat().st_size / 2**20:.1f} MiB); open it in any browser, it needs no network")


def badness(case: Case) -> tuple[float, float]:
    """Return a key that sorts the worst case first: by Dice, else by uncertainty."""
    return (case.mean_dice if case.dice is not None else 2.0, -(case.uncertainty or 0.0))


def _collect(title: str, scans: Iterable[LabeledScan], max_pictures: int) -> Group:
    cases, pictures = [], {}
    for case, volume, labels in scans:
        cases.append(case)
        pictures[case.name] = slices(volume, labels)
        if len(pictures) > max_pictures:  # never hold the pictures of a large cohort all at once
            del pictures[max((case for case in cases if case.name in pictures), key=badness).name]
    return Group(title, sorted(cases, key=badness), pictures)


def slices(volume: Volume, labels: Mapping[str, np.ndarray]) -> list[Slice]:
    """Cut a volume where the first of its label maps (W, H, D) that has foreground is largest."""
    grid, known = volume.grid, volume.geometry.known
    target = reoriented(grid, ORIENTATION) if known else grid
    image = np.uint8(gray_values(resample(volume.image, grid, target)) * 255)
    labels = {kind: resample(label, grid, target, nearest=True) for kind, label in labels.items()}
    guide = next((label for label in labels.values() if label.any()), None)
    result = []
    for name, (normal, sides) in PLANES.items():
        across, down = (axis for axis in range(3) if axis != normal)
        index = target.size[normal] // 2 if guide is None else largest_slice(guide, normal)
        upright = slice(None, None, -1 if down == 2 else 1)  # z points up
        pixel = (target.geometry.spacing[across], target.geometry.spacing[down])
        outlines = {kind: svg_path(label.take(index, normal)[:, upright], pixel) for kind, label in labels.items()}
        buffer = io.BytesIO()
        Image.fromarray(image.take(index, normal)[:, upright].T).save(buffer, "JPEG", quality=85)
        uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
        width, height = target.size[across] * pixel[0], target.size[down] * pixel[1]
        result.append(Slice(name, index, uri, width, height, outlines, sides if known else ""))
    return result


def _round_charts(results: RunResults) -> list[figures.Chart]:
    def curve(value: Callable[[RoundRecord], float | None], c: int = 0) -> figures.Curve:
        """Return a value of every round where it is known, of class ``c`` or of the cohort."""
        known = {record.round: value(record) for record in results.records if value(record) is not None}
        name, color = (results.class_name(c), figures.class_color(c)) if c else ("cohort", figures.INK)
        return figures.Curve(name, list(known), list(known.values()), color)

    dice = [
        curve(lambda r, i=c - 1: r.pseudo_dice and r.pseudo_dice_per_class[i], c) for c in range(1, results.num_classes)
    ]
    curves = {
        "Pseudo-label Dice": dice,
        "Uncertainty, mean entropy in nats": [curve(lambda r: r.uncertainty)],
        "Foreground, % of all voxels": [curve(lambda r: 100 * r.foreground_ratio)],
    }
    return [figures.Chart(title, lines, "round") for title, lines in curves.items()]


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
