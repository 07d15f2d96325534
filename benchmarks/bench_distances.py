"""Signed distance maps as DTC needs them every iteration: in PyTorch, against SciPy and scikit-image mask by mask.

python benchmarks/bench_distances.py --side 64
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import plain
import scans
import timing
from semisam_o1.core.memory import configure_allocator
from semisam_o1.data.sampling.fields import signed_distances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64, help="voxels a side of the two patches")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    print(timing.machine())
    configure_allocator(arguments.device)
    patches = [scans.atrium(seed, (arguments.side,) * 3)[1] for seed in (0, 1)]
    label = torch.from_numpy(np.stack(patches)).to(arguments.device)
    by_scipy, ours = timing.medians(
        lambda: plain.signed_distances(label, 2), lambda: signed_distances(label, 2), repeats=arguments.repeats
    )
    difference = (plain.signed_distances(label, 2) - signed_distances(label, 2)).abs().max().item()
    timing.say(f"signed distances of two {arguments.side}³ patches on {arguments.device}", by_scipy, ours)
    print(f"largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
