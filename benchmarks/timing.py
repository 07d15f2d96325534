"""What the benchmarks share: medians of calls taken in turns, the machine's name, the line that holds a claim."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

import code_path  # noqa: F401

Result = TypeVar("Result")


def machine() -> str:
    """Return one line about processor, threads and PyTorch."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{gpu}, PyTorch {torch.__version__}"


def medians(*functions: Callable[[], object], repeats: int = 5) -> list[float]:
    """Return the median seconds of every function, called in turns after one call each that does not count."""
    times: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for function, taken in zip(functions, times, strict=True):
            wait()
            started = time.perf_counter()
            function()
            wait()
            if repeat:
                taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in times]


def wait() -> None:
    """Let the GPU, if there is one, finish."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Return what a function returns in a fresh process: nothing that was set or warmed up before is left."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory() -> float:
    """Return the GiB that this process took at most: on the GPU if it used one, else of RAM."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def say(what: str, plain: float, ours: float) -> None:
    """Print both times and their ratio."""
    print(f"{what}: plain {_time(plain)}, here {_time(ours)}: {plain / ours:.1f} times faster", flush=True)


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
