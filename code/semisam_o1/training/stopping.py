"""Asked to stop, a run ends after the current step and saves what it needs to go on."""

from __future__ import annotations

import os
import signal
from types import FrameType

from ..errors import EXIT_INTERRUPTED, Interrupted

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


def ignore_signals(worker: int) -> None:
    """Leave stopping to the main process, in a worker of a DataLoader that gets the group's signals, too."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopRequest:
    """Remembers the first signal; a second one ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

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
            raise Interrupted("stopped; the same command with --resume goes on")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(EXIT_INTERRUPTED)
        self.requested = True
        os.write(2, b"\nstopping after the current step; a second signal stops at once\n")
