#!/usr/bin/env python3
"""Segment a cohort of 3-D scans from one labeled volume."""

from __future__ import annotations

from collections.abc import Sequence

from semisam_o1.core import distributed
from semisam_o1.core.errors import Hints, run_command
from semisam_o1.core.flags import parse
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.run import train

HINTS = Hints(
    memory="a smaller --patch_size or --batch_size, --cache ram or none, or --precision bf16 needs less",
    resume="the same command with --resume continues",
    dataset="(--root_path, --image_key, --binary_label, --num_classes and --labeled_num say how the dataset is read)",
)


def main(argv: Sequence[str] | None = None) -> None:
    train(parse(TrainConfig, argv, __doc__))
    distributed.stop()  # not after an error: it would wait for a process that has died


if __name__ == "__main__":
    distributed.exit_process(run_command(main, hints=HINTS))
