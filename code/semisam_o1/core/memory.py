"""Memory of the process: the allocator's settings, and how much is free. Imports no PyTorch."""

from __future__ import annotations

import contextlib
import ctypes
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


def available_memory() -> int:
    """Return the bytes of RAM that are available on this machine, 8 GiB where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, StopIteration):  # not Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 * 2**30
