"""Stop requests by signal or time limit: the run ends after the current step and saves its state."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

from semisam_o1.core.errors import EXIT_INTERRUPTED, Interrupted
from semisam_o1.core.terminal import progress

Item = TypeVar("Item")

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
REPEATED_SIGNAL_SECONDS = 3.0  # in which torchrun forwards a signal that its processes have received already


def ignore_signals(worker: int) -> None:
    """Ignore stop signals in a DataLoader worker, which receives those of the process group; the main process acts."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopRequest:
    """Remembers the first stop signal or the end of the time limit, in hours from now on.

    A second signal ends the process at once.
    """

    def __init__(self, hours: float | None = None) -> None:
        self._hours = hours
        self._deadline = None if hours is None else time.monotonic() + 3600 * hours
        self._reason: str | None = None
        self._signaled_at = 0.0
        self.kept = "nothing has been computed yet"  # said if the run is interrupted between two items

    @property
    def requested(self) -> bool:
        if self._reason is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._reason = f"after --max_time {self._hours:g} hours"
        return self._reason is not None

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def progress(
        self, items: Iterable[Item], description: str, total: int | None = None, unit: str = "volume"
    ) -> Iterator[Item]:
        """Yield the items and show progress; raise Interrupted before one if a stop was requested."""
        for item in progress(items, description, total, unit):
            if self.requested:
                raise self.interruption(self.kept)
            yield item

    def interruption(self, kept: str) -> Interrupted:
        """Return the exception that ends the run; ``kept`` tells the user what is on the disk."""
        reason = self._reason or "another process was asked to stop"
        return Interrupted(f"stopped ({reason}); {kept}; the same command with --resume continues")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signaled_at:
            if "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() < self._signaled_at + REPEATED_SIGNAL_SECONDS:
                return
            os._exit(EXIT_INTERRUPTED)
        self._signaled_at = time.monotonic()
        self._reason = signal.Signals(number).name
        os.write(2, b"\nstopping after the current step; a second signal stops at once\n")
