"""Training steps per second with threads that wait passively, as every command sets them, against threads that spin.

    python benchmarks/bench_threads.py                 a quiet machine
    python benchmarks/bench_threads.py --beside 2      beside two busy processes

Each setting runs in processes of its own, in turns; the median counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

SETTINGS = {  # name → OMP_WAIT_POLICY, number of threads (0: as many as cores)
    "spinning, all cores": ("ACTIVE", 0),
    "passive, all cores": ("PASSIVE", 0),
    "one thread": ("PASSIVE", 1),
}
BUSY = "while True: pass"


def steps_per_second(seconds: float) -> float:
    """Train a network on patches of 32 × 48 × 32 voxels for a time."""
    import torch

    import code_path  # noqa: F401
    from semisam_o1.methods import METHODS, MethodOptions
    from semisam_o1.networks import build_network

    network = build_network("unet_3D", 2, generator=torch.Generator().manual_seed(0)).train()
    optimizer = METHODS["mt"](network, MethodOptions(max_iterations=1000)).make_optimizer(network)
    image = torch.randn(2, 1, 32, 48, 32, generator=torch.Generator().manual_seed(1))
    started = count = 0
    while not started or time.perf_counter() < started + seconds:
        loss = network.logits(image).log_softmax(1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        count, started = (count + 1, started) if started else (0, time.perf_counter())
    return count / (time.perf_counter() - started)


def measure(policy: str, threads: int, seconds: float) -> float:
    environment = {**os.environ, "OMP_WAIT_POLICY": policy}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    else:
        environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, __file__, "--seconds", str(seconds), "--measure"]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=int, default=0, help="number of busy processes beside the measured one")
    parser.add_argument("--seconds", type=float, default=8.0, help="of every measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(steps_per_second(arguments.seconds))
        return
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(arguments.beside)]
    try:
        rates: dict[str, list[float]] = {name: [] for name in SETTINGS}
        for _ in range(arguments.repeats):
            for name, setting in SETTINGS.items():
                rates[name].append(measure(*setting, arguments.seconds))
    finally:
        for process in busy:
            process.kill()
    print(f"{os.cpu_count()} cores, {arguments.beside} busy processes beside, load {os.getloadavg()[0]:.1f}")
    for name, values in rates.items():
        print(f"{name}: {statistics.median(values):.2f} steps/s ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
