"""Asked to stop, a run ends after the current step and saves what it needs to go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

from semisam_o1.core.errors import EXIT_INTERRUPTED, Interrupted
from semisam_o1.core.progress import progress

Item = TypeVar("Item")

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
ECHO = 3.0  # seconds in which torchrun passes a signal on that its processes have got already


def ignore_signals(worker: int) -> None:
    """Leave stopping to the main process, in a worker of a DataLoader that gets the group's signals, too."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopRequest:
    """Remembers the first signal, or that the time is over; a second signal ends the process at once.

    Args:
        hours: after which to stop without being asked, counted from here; None: never.
    """

    def __init__(self, hours: float | None = None) -> None:
        self._hours = hours
        self._deadline = None if hours is None else time.monotonic() + 3600 * hours
        self._reason: str | None = None
        self._signalled = 0.0
        self._previous: dict[int, object] = {}
        self.kept = "nothing has been computed yet"

    @property
    def requested(self) -> bool:
        if self._reason is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._reason = f"after --max_time {self._hours:g} hours"
        return self._reason is not None

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted if a stop was asked for: for places where everything done so far is kept."""
        if self.requested:
            raise self.interruption(self.kept)

    def progress(
        self, items: Iterable[Item], description: str, total: int | None = None, unit: str = "volume"
    ) -> Iterator[Item]:
        """Yield the items and show progress; raise Interrupted before one if a stop was asked for."""
        for item in progress(items, description, total, unit):
            self.check()
            yield item

    def interruption(self, kept: str) -> Interrupted:
        """Return the exception that ends the run; ``kept`` tells the user what is on the disk."""
        reason = self._reason or "another process was asked to"
        return Interrupted(f"stopped ({reason}); {kept}; the same command with --resume goes on")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            if "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() < self._signalled + ECHO:
                return
            os._exit(EXIT_INTERRUPTED)
        self._signalled = time.monotonic()
        self._reason = signal.Signals(number).name
        os.write(2, b"\nstopping after the current step; a second signal stops at once\n")
