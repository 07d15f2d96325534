#!/usr/bin/env python3
"""Which scan is worth labeling: the one that stands best for the cohort, or, after a run, the one to label next."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from semisam_o1.commands.suggestion import suggest_next, suggest_template
from semisam_o1.core.device import resolve_device
from semisam_o1.core.errors import InputError, run_command
from semisam_o1.core.memory import configure_allocator
from semisam_o1.features.extract import FEATURE_SETS
from semisam_o1.pipeline.config import find_checkpoint


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, nargs="?", metavar="ROOT", help="dataset folder; no label is needed")
    parser.add_argument("--run", metavar="RUN", help="a trained run (folder or experiment): what to label next")
    parser.add_argument(
        "--list", default="train.txt", metavar="FILE", help="the scans to choose from (default: %(default)s)"
    )
    parser.add_argument("--features", choices=tuple(FEATURE_SETS),
                        help="feature set (default: sam where its checkpoint is, else builtin)")  # fmt: skip
    parser.add_argument("--sam_ckpt", type=Path, default=Path("pretrained_ckpt/sam_med3d_turbo.pth"),
                        help="SAM-Med3D-turbo checkpoint (default: %(default)s)")  # fmt: skip
    parser.add_argument("--image_key", default="image", help="HDF5 dataset that holds the image")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"), help="default: auto")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="scans shown (default: %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if (arguments.root is None) == (arguments.run is None):
        raise InputError("give either ROOT, a dataset folder, or --run, a run that is finished")
    if arguments.top < 1:
        raise InputError(f"--top must be at least 1, it is {arguments.top}")
    checkpoint = find_checkpoint(arguments.sam_ckpt)
    features = arguments.features or ("sam" if checkpoint.is_file() else "builtin")
    device = resolve_device(arguments.device)
    configure_allocator(device)
    if arguments.run is not None:
        print(suggest_next(arguments.run, arguments.features, checkpoint, device, arguments.top))
    else:
        print(
            suggest_template(
                arguments.root, arguments.list, arguments.image_key, features, checkpoint, device, arguments.top
            )
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
