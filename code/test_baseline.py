#!/usr/bin/env python3
"""Test a trained model on the volumes of a list."""

from __future__ import annotations

from collections.abc import Sequence

from semisam_o1.commands.testing import TestConfig, test
from semisam_o1.core import distributed
from semisam_o1.core.errors import Hints, run_command
from semisam_o1.core.flags import parse

HINTS = Hints(
    memory="a smaller --patch_size or --precision bf16 needs less",
    dataset="(--root_path, --image_key, --binary_label and --num_classes say how the dataset is read)",
)


def main(argv: Sequence[str] | None = None) -> None:
    test(parse(TestConfig, argv, __doc__))
    distributed.stop()  # after an error it would wait for a process that has died


if __name__ == "__main__":
    distributed.exit_process(run_command(main, hints=HINTS))
