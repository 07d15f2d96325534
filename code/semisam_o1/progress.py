"""The progress bar of every command: on rank 0 and in a terminal only, so that logs stay readable."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sized
from typing import TypeVar

from tqdm import tqdm

from .distributed import is_main

Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str, total: int | None = None, unit: str = "volume") -> Iterable[Item]:
    """Yield the items and show how far along they are; ``total`` is for items that do not know their number."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    hidden = not is_main() or not sys.stderr.isatty()
    return tqdm(items, description, total, unit=unit, leave=False, dynamic_ncols=True, disable=hidden)
