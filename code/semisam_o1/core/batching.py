"""Functions of batches, applied to as many of them at once as the device's memory allows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from semisam_o1.core.errors import is_out_of_memory


class OutOfMemorySafeBatcher:
    """Concatenates batches (B, ...) for one call of a function, fewer of them after the GPU ran out of memory."""

    # Elements per call that keep all cores or a GPU busy; more would only take memory.
    MAX_ELEMENTS: ClassVar[dict[str, int]] = {"cpu": 2**20, "cuda": 2**24}

    def __init__(self) -> None:
        self.max_batches = sys.maxsize  # per call, as far as memory is known to allow

    def batches_per_call(self, remaining: int, elements: int, device: str) -> int:
        """Return how many of the remaining batches, of so many elements each, share a call on a type of device."""
        busy = max(1, self.MAX_ELEMENTS.get(device, self.MAX_ELEMENTS["cpu"]) // elements)
        calls = -(-remaining // min(busy, self.max_batches))
        return -(-remaining // calls)  # equal calls rather than full ones

    def __call__(self, function: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the result of every batch in order.

        Args:
            function: maps a batch to as many results, each item independently. A function that draws random numbers
                draws different ones after memory ran out.
            batches: at least one, all on one device and of about the same size.

        Raises:
            RuntimeError: if a single batch does not fit.
        """
        done, first = 0, batches[0]
        while done < len(batches):
            count = self.batches_per_call(len(batches) - done, first.numel(), first.device.type)
            chunk = batches[done : done + count]
            results = _try(function, chunk)
            if results is None:
                self.max_batches = len(chunk) // 2  # later calls start with a size that fits
            else:
                yield from results
                done += len(chunk)


def _try(function: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """Return the results, None if memory ran out and a retry with fewer batches is possible."""
    try:
        return function(torch.cat(tuple(batches))).split([len(batch) for batch in batches])
    except RuntimeError as error:
        if len(batches) == 1 or not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # outside of the handler: the exception refers to what was allocated
    return None
