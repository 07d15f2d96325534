#!/usr/bin/env python3
"""The whole pipeline on synthetic scans: write a cohort, train two short rounds, test, compare with round 0."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from semisam_o1.core.errors import run_command
from semisam_o1.core.flags import parse
from semisam_o1.demo.run import DemoConfig, run_demo


def main(argv: Sequence[str] | None = None) -> None:
    run_demo(parse(DemoConfig, argv, __doc__))


if __name__ == "__main__":
    sys.exit(run_command(main))
