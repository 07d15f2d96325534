#!/usr/bin/env python3
"""Test a trained model on the volumes of a list."""

from __future__ import annotations

from collections.abc import Sequence

from semisam_o1 import distributed
from semisam_o1.config import TestConfig, parse
from semisam_o1.errors import run_command
from semisam_o1.evaluation.testing import test


def main(argv: Sequence[str] | None = None) -> None:
    try:
        test(parse(TestConfig, argv, __doc__))
    finally:
        distributed.stop()


if __name__ == "__main__":
    distributed.exit_process(run_command(main))
