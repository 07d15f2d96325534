#!/usr/bin/env python3
"""Test a trained model on the volumes of a list."""

from __future__ import annotations

from collections.abc import Sequence

from semisam_o1.commands.config import TestConfig
from semisam_o1.commands.testing import test
from semisam_o1.core import distributed
from semisam_o1.core.errors import run_command
from semisam_o1.core.flags import parse


def main(argv: Sequence[str] | None = None) -> None:
    test(parse(TestConfig, argv, __doc__))
    distributed.stop()  # not after an error: it would wait for a process that has died


if __name__ == "__main__":
    distributed.exit_process(run_command(main))
