#!/usr/bin/env python3
"""Write one self-contained page about a training run: curves, tables, and every case with its outlines."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from semisam_o1.core.errors import run_command
from semisam_o1.core.flags import parse
from semisam_o1.report.page import ReportConfig, report


def main(argv: Sequence[str] | None = None) -> None:
    report(parse(ReportConfig, argv, __doc__))


if __name__ == "__main__":
    sys.exit(run_command(main))
