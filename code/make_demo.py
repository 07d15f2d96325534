#!/usr/bin/env python3
"""The whole pipeline on made-up scans: write a cohort, train two short rounds, test, show what was gained."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from semisam_o1 import PROJECT_ROOT
from semisam_o1.commands.config import TestConfig
from semisam_o1.commands.testing import test
from semisam_o1.core.errors import InputError, run_command
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.demo.comparison import compare_with_round0
from semisam_o1.demo.phantom import holds_cohort, make_cohort
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.run import train
from semisam_o1.report.page import write_report
from semisam_o1.runs.results import read_run

STANDARD_DEMO = PROJECT_ROOT / "data" / "demo"
NUM_CLASSES = 3
PATCH_SIZE = (48, 48, 32)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "destination", type=Path, metavar="DST", nargs="?", default=STANDARD_DEMO,
        help="dataset folder to write (default: the project's data/demo)",
    )  # fmt: skip
    parser.add_argument("--exp", default="demo", help="name of the run, a folder below model/ (default: demo)")
    parser.add_argument("--seed", type=int, default=21, help="of the subjects (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="rounds of training (default: %(default)s)")
    parser.add_argument(
        "--iterations", type=int, default=320, metavar="N", help="iterations per round (default: %(default)s)"
    )
    parser.add_argument("--data_only", action="store_true", help="write the scans and stop")
    parser.add_argument("--overwrite", action="store_true", help="replace other scans in DST, and an earlier run")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    arguments = parser.parse_args(argv)
    if arguments.seed < 0:
        parser.error(f"--seed must be 0 or more, it is {arguments.seed}")
    return arguments


def write_data(destination: Path, seed: int, overwrite: bool) -> None:
    """Write the cohort, or keep it where it is already there."""
    if destination.exists() and not destination.is_dir():
        raise InputError(f"{destination} is a file; name a folder for the demo's dataset")
    if holds_cohort(destination, seed=seed):
        print(f"{destination}: kept, it already holds the demo's scans of seed {seed}")
        return
    if destination.is_dir() and any(destination.iterdir()) and not overwrite:
        raise InputError(
            f"{destination} is not empty and does not hold the demo's scans of seed {seed}; name another folder, or "
            "--overwrite replaces the lists and the scans of the same names"
        )
    make_cohort(destination, seed=seed)
    print(f"{destination}: the demo's scans of seed {seed} written")


def training(destination: Path, exp: str, iterations: int, **changes: object) -> TrainConfig:
    """Return the settings of the demo's training."""
    settings: dict = {
        "backbone": "mt",
        "num_classes": NUM_CLASSES,
        "propagation": "atlas",
        "features": "builtin",
        "registration": False,  # made-up anatomies are nothing but warped: registration would leave nothing to learn
        "patch_size": PATCH_SIZE,
        "num_rounds": 2,
        "base_lr": 0.03,
        "orientations": "none",  # every made-up patient lies the same way
        "val_interval": 40,
        "val_stride": 24,
        "log_images": 50,
    }
    return TrainConfig(root_path=destination, exp=exp, max_iterations=iterations, **(settings | changes))


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    started = time.monotonic()
    write_data(arguments.destination, arguments.seed, arguments.overwrite)
    if arguments.data_only:
        return
    demo = arguments.destination
    train(
        training(demo, arguments.exp, arguments.iterations, num_rounds=arguments.rounds, overwrite=arguments.overwrite)
    )
    tested = TestConfig(root_path=arguments.destination, exp=arguments.exp, backbone="mt", stride_xy=24, stride_z=16)
    summary = test(tested)
    print(compare_with_round0(Dataset(arguments.destination), tested, summary))
    results = read_run(arguments.exp, "mt")
    write_report(results, results.folder.path / "report.html")
    print(f"a page to look at, in any browser: {results.folder.path / 'report.html'}")
    print(f"the whole demo took {(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    sys.exit(run_command(main))
