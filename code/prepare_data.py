#!/usr/bin/env python3
"""Turn medical images into a dataset: one HDF5 file per scan, and the lists train, val and test."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from semisam_o1.data.convert import FRACTIONS, STANDARD_LA, prepare_la, prepare_nifti
from semisam_o1.data.formats import SUFFIXES
from semisam_o1.errors import run_command

EXAMPLES = """examples:
  prepare_data.py la ~/2018LA_Seg_Training_Set
  prepare_data.py nifti --images imagesTr --labels labelsTr --template hippocampus_001 ../data/hippocampus
"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--overwrite", action="store_true", help="replace files and lists that differ")
    common.add_argument("--debug", action="store_true", help="show where an error came from")

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    la = commands.add_parser("la", parents=[common], help="the public copy of the 2018 Left Atrium challenge")
    la.add_argument("source", type=Path, metavar="SRC", help="folder with NAME/mri_norm2.h5")
    la.add_argument(
        "destination", type=Path, metavar="DST", nargs="?", default=STANDARD_LA,
        help="dataset folder (default: the project's data/LA)",
    )  # fmt: skip

    nifti = commands.add_parser("nifti", parents=[common], help=f"your own scans ({', '.join(SUFFIXES)})")
    nifti.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder with one file per scan")
    nifti.add_argument("--labels", type=Path, metavar="DIR", help="folder with labels of the same names")
    nifti.add_argument("--template", metavar="NAME", help="the scan whose label is spread: first in train.txt")
    nifti.add_argument(
        "--split", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"),
        help="parts of all scans, drawn by chance (default: {} {} {})".format(*FRACTIONS),
    )  # fmt: skip
    for name in ("train", "val", "test"):
        nifti.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"names of {name}.txt, instead of --split")
    nifti.add_argument("--seed", type=int, default=1337, help="of the drawn split (default: %(default)s)")
    nifti.add_argument("destination", type=Path, metavar="DST", help="dataset folder to write")

    arguments = parser.parse_args(argv)
    if arguments.command == "nifti":
        given = {f"{name}.txt": getattr(arguments, name) for name in ("train", "val", "test")}
        arguments.lists = {name: path for name, path in given.items() if path is not None}
        if arguments.lists and arguments.split is not None:
            nifti.error("--split draws the lists that --train, --val and --test give; use one of the two")
        if arguments.lists and arguments.train is None:
            nifti.error("--val and --test need --train, the list of the scans to train on")
        if arguments.seed < 0:
            nifti.error(f"--seed must be 0 or more, it is {arguments.seed}")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.command == "la":
        print(prepare_la(arguments.source, arguments.destination, overwrite=arguments.overwrite))
    else:
        print(
            prepare_nifti(
                arguments.images,
                arguments.labels,
                arguments.template,
                arguments.destination,
                fractions=arguments.split or FRACTIONS,
                list_files=arguments.lists,
                seed=arguments.seed,
                overwrite=arguments.overwrite,
            )
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
