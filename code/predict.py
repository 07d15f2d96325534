#!/usr/bin/env python3
"""Segment scans with a trained model, or export the labels of the scans it was trained on, in their own geometry."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from semisam_o1.commands.config import PredictConfig
from semisam_o1.commands.prediction import predict
from semisam_o1.core.errors import Hints, run_command
from semisam_o1.core.flags import parse

HINTS = Hints(memory="a smaller --patch_size or --precision bf16 needs less")


def main(argv: Sequence[str] | None = None) -> None:
    predict(parse(PredictConfig, argv, __doc__))


if __name__ == "__main__":
    sys.exit(run_command(main, hints=HINTS))
