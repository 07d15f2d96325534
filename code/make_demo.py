#!/usr/bin/env python3
"""Write the demo's dataset: 25 made-up scans with two labelled organs, and the lists train, val and test."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from semisam_o1.data.phantom import holds_cohort, make_cohort
from semisam_o1.errors import InputError, run_command

STANDARD_DEMO = Path(__file__).resolve().parents[1] / "data" / "demo"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "destination", type=Path, metavar="DST", nargs="?", default=STANDARD_DEMO,
        help="dataset folder to write (default: the project's data/demo)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=7, help="of the subjects (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    arguments = parser.parse_args(argv)
    if arguments.seed < 0:
        parser.error(f"--seed must be 0 or more, it is {arguments.seed}")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    destination = arguments.destination
    if destination.exists() and not destination.is_dir():
        raise InputError(f"{destination} is a file; name a folder for the demo's dataset")
    if holds_cohort(destination, seed=arguments.seed):
        print(f"{destination}: kept, it already holds the demo's scans of seed {arguments.seed}")
        return
    if destination.is_dir() and any(destination.iterdir()) and not arguments.overwrite:
        raise InputError(
            f"{destination} is not empty and does not hold the demo's scans of seed {arguments.seed}; name "
            "another folder, or --overwrite replaces the lists and the scans of the same names"
        )
    make_cohort(destination, seed=arguments.seed)
    print(f"{destination}: the demo's scans of seed {arguments.seed} written")


if __name__ == "__main__":
    sys.exit(run_command(main))
