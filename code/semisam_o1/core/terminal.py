"""What commands print: progress of rank 0 (a bar in a terminal, a line per minute in a log), durations, tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Protocol, TypeVar

from tqdm import tqdm

from semisam_o1.core.distributed import is_main

Item = TypeVar("Item")

LINE_INTERVAL = 60.0  # seconds between lines if there is no terminal


class ProgressFn(Protocol):
    """Iterates over items and shows progress; may raise Interrupted between two items."""

    def __call__(
        self, items: Iterable[Item], description: str, total: int | None = None, unit: str = "volume"
    ) -> Iterable[Item]: ...


def progress(items: Iterable[Item], description: str, total: int | None = None, unit: str = "volume") -> Iterable[Item]:
    """Iterate over the items and show progress; ``total`` is for iterables without a length."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    if not is_main():
        return items
    if sys.stderr.isatty():
        return tqdm(items, description, total, unit=unit, leave=False, dynamic_ncols=True)
    return _in_lines(items, description, total, unit)


def silent(items: Iterable[Item], description: str, total: int | None = None, unit: str = "volume") -> Iterable[Item]:
    """Iterate over the items without showing progress."""
    return items


def _in_lines(items: Iterable[Item], description: str, total: int | None, unit: str) -> Iterator[Item]:
    started = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= LINE_INTERVAL and done:
            last = now
            rate = done / (now - started)
            left = f", {duration((total - done) / rate)} left" if total else ""
            pace = f"{rate:.2f} {unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit}"
            count = f"{done}/{total}" if total else done
            print(f"{description}: {count} {unit}s, {pace}{left}", file=sys.stderr, flush=True)
        yield item


def duration(seconds: float) -> str:
    """Format a duration: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 scan, 2 scans."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def text_table(rows: Sequence[Sequence[str]], align: str = ">") -> list[str]:
    """Return one line per row, with aligned columns and two spaces between them.

    Args:
        rows: cells, the same number in every row.
        align: '<' (left) or '>' (right) for each column; the last one also holds for the columns after it.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    columns = [f"{{:{side}{width}}}" for side, width in zip(align.ljust(len(widths), align[-1]), widths, strict=True)]
    return ["  ".join(columns).format(*row).rstrip() for row in rows]
