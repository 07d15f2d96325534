#!/usr/bin/env python3
"""Write one self-contained page about a training run: curves, tables, and every case with its outlines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from semisam_o1.core.errors import InputError, run_command
from semisam_o1.methods import METHODS
from semisam_o1.report.page import write_report
from semisam_o1.runs.results import read_run


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", metavar="RUN", help="the run folder, or the name of its experiment")
    parser.add_argument("--backbone", choices=tuple(METHODS), help="which run, where several backbones were trained")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the run folder)")
    parser.add_argument(
        "--cases", type=int, default=60, metavar="N",
        help="cases of each list shown with pictures, the worst ones (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.cases < 0:
        raise InputError(f"--cases must not be negative, it is {arguments.cases}")
    results = read_run(arguments.run, arguments.backbone)
    path = arguments.out or results.folder.path / "report.html"
    write_report(results, path, arguments.cases)
    print(f"written: {path} ({path.stat().st_size / 2**20:.1f} MiB); open it in any browser, it needs no network")


if __name__ == "__main__":
    sys.exit(run_command(main))
