#!/usr/bin/env python3
"""Suggest a scan to label: the most representative scan of a cohort or, after a run, the next one to label."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from semisam_o1.commands.suggestion import SuggestConfig, suggest
from semisam_o1.core.errors import Hints, run_command
from semisam_o1.core.flags import parse

HINTS = Hints(
    memory="--features builtin or --device cpu needs less memory of the GPU",
    dataset="(ROOT, --list and --image_key say how the dataset is read)",
)


def main(argv: Sequence[str] | None = None) -> None:
    suggest(parse(SuggestConfig, argv, __doc__))


if __name__ == "__main__":
    sys.exit(run_command(main, hints=HINTS))
