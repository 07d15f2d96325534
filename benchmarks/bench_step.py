"""A training step of every method: as it is done here, against plain float32 layers, passes and distance maps.

    python benchmarks/bench_step.py                                      64³, on the CPU
    python benchmarks/bench_step.py --device cuda --side 128             as the method is published

Each side runs in a process of its own. The floor is the time that the convolutions alone would take at the speed of the
fastest large matrix product of this machine: 289.1 GFLOP per 128³ volume and forward pass, twice that backward.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from types import SimpleNamespace
from typing import NamedTuple

import torch

import plain
import scans
import timing
from semisam_o1.core.device import autocast, resolve_device, resolve_precision
from semisam_o1.core.memory import configure_allocator
from semisam_o1.core.seeding import derive_seed
from semisam_o1.data.sampling.batches import Batch, BatchSettings, BatchStream
from semisam_o1.methods import METHODS, MethodOptions, dtc
from semisam_o1.networks import build_network

FORWARD_GFLOP = 289.1  # of one 128³ volume
# Forward passes' worth of arithmetic: two items forward and backward, and the teacher's or the discriminator's passes.
PASSES = {"mt": 6 + 1, "uamt": 6 + 9, "dan": 6 + 2, "dtc": 6}
ITERATIONS = 15000


class Measured(NamedTuple):
    seconds: float
    split: dict[str, float]
    memory: float  # GiB


class Here:
    """A step as ``RoundTrainer`` makes it, with the time of its parts."""

    def __init__(self, name: str, device: str):
        self.device, self.precision = resolve_device(device), resolve_precision("auto", device)
        configure_allocator(device)
        network = build_network(METHODS[name].network, 2, generator=torch.Generator().manual_seed(0))
        self.student = network.to(self.device).train()
        self.method = METHODS[name](self.student, MethodOptions(max_iterations=ITERATIONS))
        self.optimizer = self.method.make_optimizer(self.student)

    def __call__(self, batch: Batch, t: int, parts: Parts | None = None) -> None:
        part = parts or Parts(timed=False)
        torch.manual_seed(derive_seed(1, t))
        with autocast(self.device.type, self.precision):
            terms = self.method.losses(part.of("forward", self.student), batch, t)
        loss = sum(term.weight * term.value for term in terms.values())
        self.optimizer.zero_grad()
        part.of("backward", loss.backward)()
        part.of("optimizer", self.optimizer.step)()
        for group in self.optimizer.param_groups:
            group["lr"] = self.method.learning_rate(t)
        with autocast(self.device.type, self.precision):
            part.of("teacher, discriminator", self.method.after_step)(self.student, batch, t)


class Parts:
    """Adds up the time of named parts; on a GPU each is waited for."""

    def __init__(self, timed: bool = True):
        self.timed, self.seconds = timed, defaultdict(float)

    def of(self, name: str, function):
        def measured(*args, **keywords):
            timing.wait()
            started = time.perf_counter()
            result = function(*args, **keywords)
            timing.wait()
            self.seconds[name] += time.perf_counter() - started
            return result

        return measured if self.timed else function


def patches(side: int) -> BatchStream:
    """Return batches of two cubes from scans a little larger."""
    made = {f"v{i}": scans.atrium(i, (side + 8,) * 3) for i in range(3)}
    images, labels = ({name: torch.from_numpy(pair[k]) for name, pair in made.items()} for k in (0, 1))
    source = SimpleNamespace(image=images.get, label=labels.get, weight=lambda name: None)
    return BatchStream(["v0"], ["v1", "v2"], source, BatchSettings((side,) * 3, 1, 2, ITERATIONS, seed=(1,)))


def measure_plain(name: str, device: str, side: int, repeats: int) -> Measured:
    step, batch, start = plain.Step(name, 2, device), patches(side)[0].to(torch.device(device)), ITERATIONS // 2
    (seconds,) = timing.medians(lambda: step(batch.image, batch.label, start), repeats=repeats)
    return Measured(seconds, {}, timing.peak_memory())


def measure_here(name: str, device: str, side: int, repeats: int) -> Measured:
    step, stream, start = Here(name, device), patches(side), ITERATIONS // 2
    batch = stream[0].to(step.device)
    (seconds,) = timing.medians(lambda: step(batch, start), repeats=repeats)
    step, parts = Here(name, device), Parts()
    if hasattr(step.method, "teacher_softmax"):
        step.method.teacher_softmax = parts.of("teacher, discriminator", step.method.teacher_softmax)
    dtc.signed_distances = parts.of("distance maps", dtc.signed_distances)
    step(batch, start)
    parts.seconds.clear()
    started = time.perf_counter()
    for t in range(repeats):
        step(parts.of("data", stream.__getitem__)(t).to(step.device), start + t, parts)
    timing.wait()
    whole = time.perf_counter() - started
    split = {name: value / whole for name, value in parts.seconds.items()}
    return Measured(seconds, split | {"losses and the rest": 1 - sum(split.values())}, timing.peak_memory())


def fastest_product(device: str) -> float:
    """Return the GFLOP per second of a large matrix product in the precision that training takes here."""
    dtype = torch.bfloat16 if resolve_precision("auto", device) == "bf16" else torch.float32
    side = 8192 if device == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    (seconds,) = timing.medians(lambda: a @ a, repeats=5)
    return 2 * side**3 / 1e9 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=tuple(METHODS))
    parser.add_argument("--side", type=int, default=64, help="voxels a side of a patch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    print(timing.machine())
    peak = timing.in_process(fastest_product, arguments.device)
    precision = resolve_precision("auto", arguments.device)
    print(f"largest matrix product {peak:.0f} GFLOP/s in {precision}")
    for name in arguments.methods:
        settings = (name, arguments.device, arguments.side, arguments.repeats)
        by_plain = timing.in_process(measure_plain, *settings)
        here = timing.in_process(measure_here, *settings)
        timing.say(f"{name}, two {arguments.side}³ patches, {precision} against fp32", by_plain.seconds, here.seconds)
        floor = PASSES[name] * FORWARD_GFLOP * (arguments.side / 128) ** 3 / peak
        split = ", ".join(f"{part} {100 * share:.0f} %" for part, share in here.split.items())
        print(f"    {1 / here.seconds:.2f} iterations/s, {100 * floor / here.seconds:.0f} % of the floor's speed; "
              f"peak memory {by_plain.memory:.1f} and {here.memory:.1f} GiB")  # fmt: skip
        print(f"    {split}")


if __name__ == "__main__":
    main()
