"""The demo: write synthetic scans, train, test, compare with round 0, and write the report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semisam_o1 import PROJECT_ROOT
from semisam_o1.commands.testing import TestConfig, test
from semisam_o1.core.errors import InputError
from semisam_o1.core.flags import AT_LEAST_0, CommandConfig, option
from semisam_o1.core.terminal import text_table
from semisam_o1.demo.phantom import PhantomCohort
from semisam_o1.drawing.figures import draw_labels
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.run import train
from semisam_o1.propagation.atlas import AtlasPropagation, Template
from semisam_o1.report.page import ReportConfig, report
from semisam_o1.runs.results import RunResults, read_run

DATA = PROJECT_ROOT / "data" / "demo"


@dataclass(frozen=True, kw_only=True)
class DemoConfig(CommandConfig):
    """Settings of make_demo.py."""

    destination: Path = option(DATA, "dataset folder to write", positional=True, nargs="?", metavar="DST")
    exp: str = option("demo", "name of the run, a folder below model/")
    seed: int = option(21, "random seed of the subjects", within=AT_LEAST_0)
    rounds: int = option(2, "rounds of training", metavar="N")
    iterations: int = option(120, "iterations per round", metavar="N")
    data_only: bool = option(False, "write the scans and stop")
    overwrite: bool = option(False, "replace other scans in DST, and an earlier run")


def run_demo(config: DemoConfig) -> None:
    """Run the whole pipeline on synthetic scans; raises InputError as ``write_data`` and the commands do."""
    started = time.monotonic()
    root = config.destination
    write_data(root, config.seed, config.overwrite)
    if config.data_only:
        return
    train(train_config(root, config.exp, config.iterations, num_rounds=config.rounds, overwrite=config.overwrite))
    test(TestConfig(root_path=root, exp=config.exp, backbone="mt"))
    print(compare_with_round0(read_run(config.exp, "mt")))
    report(ReportConfig(run=config.exp, backbone="mt"))
    print(f"the whole demo took {(time.monotonic() - started) / 60:.1f} minutes")


def write_data(root: Path, seed: int, overwrite: bool) -> None:
    """Write the demo's dataset unless it is there; raises InputError if the folder holds something else."""
    cohort = PhantomCohort(seed)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; name a folder for the demo's dataset")
    if cohort.is_in(root):
        print(f"{root}: kept, it already holds the demo's scans of seed {seed}")
        return
    if root.is_dir() and any(root.iterdir()) and not overwrite:
        remedy = "name another folder, or --overwrite replaces the lists and the scans of the same names"
        raise InputError(f"{root} is not empty and does not hold the demo's scans of seed {seed}; {remedy}")
    cohort.write(root)
    print(f"{root}: the demo's scans of seed {seed} written")


def train_config(root: Path, exp: str, iterations: int, **changes: Any) -> TrainConfig:
    """Return the settings of the demo's training, the rest is planned; ``changes`` replace fields."""
    # The subjects have the same orientation and differ by smooth warps only: registration would leave nothing to learn.
    simple = {"registration": False, "refinement": "knn", "augmentation": ("spatial", "intensity")}
    short = {"features": "builtin", "max_iterations": iterations, "num_rounds": 2, "log_images": 50, "zooms": (1.0,)}
    return TrainConfig(root_path=root, exp=exp, recipe="best", **(simple | short | changes))


def compare_with_round0(results: RunResults) -> str:
    """Return a table of the test scans' Dice in round 0, by propagation of the template's label, and after training.

    A figure of the case with the median Dice is written to the run's figures/.
    """
    template = results.dataset.load(results.dataset.names("train.txt")[0])
    labeled = Template(template.image, template.label, spacing=template.geometry.spacing)
    atlas = AtlasPropagation([labeled], results.num_classes, registration=False)
    tested = list(results.tested())
    round0 = [atlas.label(scan.volume.image, scan.volume.geometry.spacing).label for scan in tested]
    labels = [(s.volume.label, label, s.labels["prediction"]) for s, label in zip(tested, round0, strict=True)]
    scores = np.array([dice_per_class(label, truth, results.num_classes) for truth, label, _ in labels])

    def coronal(array: np.ndarray) -> np.ndarray:
        return array.transpose(0, 2, 1)[:, ::-1]  # z points up

    median = int(np.argsort(scores.mean(axis=1))[len(tested) // 2])
    volume, (truth, *others) = tested[median].volume, labels[median]
    side = ("coronal", coronal(volume.image), coronal(truth), [coronal(label) for label in others])
    figure = results.folder.figures / "demo.png"
    rows = [(volume.name, volume.image, truth, others), side]
    draw_labels(rows, ["round 0", "trained"], figure, results.class_names)

    summary = results.test["summary"]
    trained = [*summary["classes"].values(), summary["overall"]]
    names = [*results.class_names.values(), "all"]
    rows = [["class", "round 0", "trained"]]
    for name, before, after in zip(names, [*scores.mean(axis=0), scores.mean()], trained, strict=True):
        rows.append([name, f"{before:.4f}", f"{after['dice']['mean']:.4f}"])
    return "\n".join([f"mean Dice on {len(tested)} test scans", *text_table(rows), f"figure: {figure}"])
