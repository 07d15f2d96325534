#!/usr/bin/env python3
"""Turn medical images into a dataset: one HDF5 file per scan, and the lists train, val and test."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from semisam_o1.commands.preparation import parse_arguments, prepare
from semisam_o1.core.errors import Hints, run_command

HINTS = Hints(memory="fewer --workers or a coarser --spacing need less")


def main(argv: Sequence[str] | None = None) -> None:
    print(prepare(parse_arguments(argv, __doc__)))


if __name__ == "__main__":
    sys.exit(run_command(main, hints=HINTS))
