#!/usr/bin/env python3
"""Segment scans with a trained model, or export the labels of the scans it was trained on, on their own grid."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from semisam_o1.commands.prediction import PredictConfig, predict
from semisam_o1.core.errors import Hints, run_command
from semisam_o1.core.flags import parse

HINTS = Hints(
    memory="a smaller --patch_size or --precision bf16 needs less",
    dataset="(--root_path names the dataset of --cohort, if it was moved)",
)


def main(argv: Sequence[str] | None = None) -> None:
    predict(parse(PredictConfig, argv, __doc__))


if __name__ == "__main__":
    sys.exit(run_command(main, hints=HINTS))
