#!/usr/bin/env python3
"""Test a trained model on the volumes of a list."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from semisam_o1.config import TestConfig, parse
from semisam_o1.errors import run_command
from semisam_o1.evaluation.testing import test


def main(argv: Sequence[str] | None = None) -> None:
    test(parse(TestConfig, argv, __doc__))


if __name__ == "__main__":
    sys.exit(run_command(main))
