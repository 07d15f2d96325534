"""A whole scan through the sliding window: as it is done here, against one window at a time in float32.

    python benchmarks/bench_inference.py                  128³ patches, stride 64
    python benchmarks/bench_inference.py --device cuda

The plain way sums in NumPy. It runs in a process of its own, without what the package does to it.
"""

from __future__ import annotations

import argparse

import torch

import plain
import scans
import timing
from semisam_o1.core.device import resolve_precision
from semisam_o1.core.memory import configure_allocator
from semisam_o1.evaluation.sliding_window import Predictor
from semisam_o1.networks import build_network


def run(kind: str, device: str, patch: tuple[int, int, int], stride: int, repeats: int) -> tuple[float, float]:
    """Return the median seconds and the peak memory in GiB."""
    image = torch.from_numpy(scans.atrium(0)[0])
    if kind == "plain":
        network = plain.network("unet_3D", 2, device).eval()
        (seconds,) = timing.medians(lambda: plain.predict(network, image, patch, stride, 2), repeats=repeats)
    else:
        configure_allocator(device)
        network = build_network("unet_3D", 2, generator=torch.Generator().manual_seed(0)).to(device)
        predictor = Predictor(network, patch, (stride,) * 3, resolve_precision("auto", device))
        (seconds,) = timing.medians(lambda: predictor(image), repeats=repeats)
    return seconds, timing.peak_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--patch_size", type=int, nargs=3, default=(128, 128, 128))
    parser.add_argument("--stride", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(timing.machine())
    settings = (arguments.device, tuple(arguments.patch_size), arguments.stride, arguments.repeats)
    (by_window, plain_memory), (ours, memory) = (timing.in_process(run, kind, *settings) for kind in ("plain", "here"))
    timing.say(f"a scan of {scans.SHAPE}, patch {settings[1]}, stride {arguments.stride}", by_window, ours)
    print(f"peak memory {plain_memory:.1f} GiB and {memory:.1f} GiB")


if __name__ == "__main__":
    main()
