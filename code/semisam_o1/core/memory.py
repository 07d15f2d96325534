"""What the process may use: memory, with the allocator's settings, and cores. Imports no PyTorch."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # glibc's malloc.h


def configure_allocator(device: str) -> bool:
    """Let glibc reuse freed blocks below 1 GiB if the CPU computes; return whether it does.

    By default, glibc returns large blocks to the system, and every activation of a network on the CPU is mapped and
    zeroed page by page again: a third of a training step in float32. Settings in the environment take precedence.
    ``device`` is 'cpu' or 'cuda'; for the latter nothing changes.
    """
    chosen = any(key in os.environ for key in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"))
    chosen |= "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if device != "cpu" or sys.platform != "linux" or chosen:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # glibc before 2.35 refuses a threshold that high: then map no block separately at all.
    in_heap = mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_MAX, 0)
    return bool(in_heap and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def available_cores() -> int:
    """Return the number of cores that this process may run on: containers and batch jobs may be given a few."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Return the bytes of RAM that this process may still take, 8 GiB where the system does not tell."""
    return min(_free_on_machine(), *_free_in_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))


def _free_in_groups(membership: Path, root: Path) -> list[float]:
    """Return the bytes that the limits of this process's control groups leave; containers and batch jobs have such.

    Args:
        membership: the file that names the groups.
        root: the folder that shows them; in a container often that of its own group.
    """
    free = [math.inf]
    with contextlib.suppress(OSError, ValueError):  # not Linux
        rows = [row.split(":", 2) for row in membership.read_text(encoding="utf-8").splitlines()]
        for _, controllers, path in rows:
            if controllers in ("", "memory"):
                base = root / controllers
                named = (base / path.lstrip("/")).resolve()
                inside = [folder for folder in (named, *named.parents) if folder.is_relative_to(base)]
                free += map(_free_in_group, {base, *inside})
    return free


def _free_in_group(folder: Path) -> float:
    """Return the bytes that a control group of either version leaves; infinitely many without a limit."""
    for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        with contextlib.suppress(OSError, ValueError):  # 'max' is no number
            allowed, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
            rows = (row.split() for row in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            files = {name: int(value) for name, value in rows}
            cached = files.get("total_inactive_file", files.get("inactive_file", 0))  # given up when memory is short
            return max(0, allowed - used + cached)
    return math.inf


def _free_on_machine() -> int:
    with contextlib.suppress(OSError, ValueError, StopIteration):  # not Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 * 2**30
