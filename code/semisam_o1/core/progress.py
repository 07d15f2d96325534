"""The progress bar of every command: a bar in a terminal, a line a minute in a file. Rank 0 alone shows it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TextIO, TypeVar

from tqdm import tqdm

from semisam_o1.core.distributed import is_main

Item = TypeVar("Item")

LINE_SECONDS = 60.0  # between the lines where there is no terminal; what takes less prints none


class ProgressFn(Protocol):
    """Iterates over items and shows progress; may raise Interrupted between two items if a stop was asked for."""

    def __call__(
        self, items: Iterable[Item], description: str, total: int | None = None, unit: str = "volume"
    ) -> Iterable[Item]: ...


def progress(items: Iterable[Item], description: str, total: int | None = None, unit: str = "volume") -> Iterable[Item]:
    """Yield the items and show progress; ``total`` is for items that do not know their number."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    if not is_main():
        return items
    if sys.stderr.isatty():
        return tqdm(items, description, total, unit=unit, leave=False, dynamic_ncols=True)
    return _in_lines(items, description, total, unit, sys.stderr)


def silent(items: Iterable[Item], description: str, total: int | None = None, unit: str = "volume") -> Iterable[Item]:
    """Yield the items and show nothing."""
    return items


def _in_lines(items: Iterable[Item], description: str, total: int | None, unit: str, stream: TextIO) -> Iterator[Item]:
    started = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= LINE_SECONDS and done:
            last = now
            rate = done / (now - started)
            left = f", {duration((total - done) / rate)} left" if total else ""
            pace = f"{rate:.2f} {unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit}"
            print(f"{description}: {done}{f'/{total}' if total else ''} {unit}s, {pace}{left}", file=stream, flush=True)
        yield item


def duration(seconds: float) -> str:
    """Return a time as people say it: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
