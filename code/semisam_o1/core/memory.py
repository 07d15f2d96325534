"""Memory: what the process keeps of it, and how much it uses at once."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks below 1 GiB for the next allocation; return whether it does.

    By default it hands large blocks back to the system, so that every activation of a network on the CPU is mapped and
    zeroed page by page again: a third of a training step in float32. What the user sets in the environment stays.
    """
    chosen = any(key in os.environ for key in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"))
    chosen |= "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" and not chosen else None
    if mallopt is None:
        return False
    # Before 2.35 the threshold may not be that high: then no block at all is mapped by itself.
    in_heap = mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_MAX, 0)
    return bool(in_heap and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


class Joined:
    """Applies functions of batches (B, ...) to several of them at once, as far as the device's memory goes.

    Args:
        size: elements of one of the batches.
    """

    # Elements at once: what keeps the cores busy, or a GPU; more only takes memory.
    MOST: ClassVar[dict[str, int]] = {"cpu": 2**20, "cuda": 2**24}

    def __init__(self, size: int, device: torch.device):
        self.most = max(1, self.MOST.get(device.type, self.MOST["cpu"]) // size)

    def __call__(self, function: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the result of every batch in order.

        Args:
            function: batch → batch of as many results, each item by itself. One that draws random numbers draws
                others once memory was short.
        """
        done = 0
        while done < len(batches):
            left = len(batches) - done
            some = batches[done : done + -(-left // -(-left // self.most))]  # equal parts rather than full ones
            results = _attempt(function, some)
            if results is None:  # once is enough: the next call begins with what went through
                self.most = len(some) // 2
                continue
            yield from results
            done += len(some)


def _attempt(function: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """Return the results, None where memory ends and fewer batches are worth a try."""
    try:
        return function(torch.cat(tuple(batches))).split([len(batch) for batch in batches])
    except torch.cuda.OutOfMemoryError:
        if len(batches) == 1:
            raise
    torch.cuda.empty_cache()  # only now: the error held on to what was allocated
    return None
