"""Logging of a run: console and log.txt, metrics.jsonl, TensorBoard. Only rank 0 writes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from semisam_o1.core import distributed
from semisam_o1.core.atomic_io import write_text
from semisam_o1.runs.layout import RunFolder

FLUSH_SECONDS = 30  # after which TensorBoard shows what was logged


@dataclass(frozen=True)
class Position:
    """Progress of a run.

    Attributes:
        finished: the last finished round, −1 before round 0 is finished.
        round_: the round that is trained next, or continued after ``iteration`` iterations.
        step: number of finished iterations over all rounds.
    """

    finished: int
    round_: int
    iteration: int
    step: int


class Tracker:
    """Writes into a run folder.

    Args:
        folder: of the run; exists.
        since: position of a resumed run; what was logged after it will be repeated and is dropped.
    """

    def __init__(self, folder: RunFolder, since: Position | None = None):
        self._main = distributed.is_main()
        if self._main:
            if since is not None:
                _drop_lines(folder.metrics, since)
            self._log = folder.log.open("a", encoding="utf-8")
            self._metrics = folder.metrics.open("a", encoding="utf-8")
            # Written in this thread: a full disk then ends the run instead of a thread that the run waits for.
            folder.tensorboard.mkdir(parents=True, exist_ok=True)
            self._board = EventsWriter(str(folder.tensorboard / "events"), f".{os.getpid()}")
            self._flushed_at = time.monotonic()
            if since is not None:  # from this step on, earlier files are ignored
                start = SessionLog(status=SessionLog.START)
                self._board.write_event(Event(wall_time=time.time(), step=since.step + 1, session_log=start))

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            for file in (self._board, self._log, self._metrics):
                with contextlib.suppress(OSError):  # a full disk was reported when it was met
                    file.close()

    def say(self, text: str) -> None:
        """Print a line, also to log.txt."""
        if self._main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
            self._log.write(text + "\n")
            self._log.flush()

    def log(self, step: int, values: Mapping[str, float], **context: int | float | str) -> None:
        """Log scalars of one step, counted over all rounds, to TensorBoard and as one JSON object.

        Args:
            values: by TensorBoard tag.
            context: joins the JSON object only, such as round and iteration.
        """
        if self._main:
            for tag, value in values.items():
                self._write_event(step, summary.scalar(tag, value))
            self._metrics.write(json.dumps({"step": step, **context, **values}) + "\n")
            self._metrics.flush()

    def sync(self) -> None:
        """Write everything logged so far to the disk."""
        if self._main:
            self._board.flush()
            os.fsync(self._metrics.fileno())

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Log an RGB picture (3, rows, columns) with values from 0 to 1."""
        if self._main:
            self._write_event(step, summary.image(tag, pixels))

    def _write_event(self, step: int, content: Summary) -> None:
        self._board.write_event(Event(wall_time=time.time(), step=step, summary=content))
        if time.monotonic() > self._flushed_at + FLUSH_SECONDS:
            self._board.flush()
            self._flushed_at = time.monotonic()


def _drop_lines(path: Path, since: Position) -> None:
    """Keep the lines of finished iterations and, of those without an iteration, of finished rounds."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # the line that a kill cut off
            content = json.loads(line)
            round_, iteration = content["round"], content.get("iteration")
            position = (since.round_, since.iteration)
            if round_ <= since.finished if iteration is None else (round_, iteration) <= position:
                kept.append(line + "\n")
    write_text(path, "".join(kept))
