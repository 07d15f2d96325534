"""Logging of a run: console and log.txt, metrics.jsonl, TensorBoard. Only rank 0 writes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping
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
from semisam_o1.runs.results import read_steps

FLUSH_SECONDS = 30  # after which TensorBoard shows what was logged


class Tracker:
    """Writes into a run folder.

    Args:
        folder: of the run; exists.
        last_round, last_step: the last finished ones of a resumed run; what was logged after them will be repeated and
            is dropped.
        class_names: of the foreground classes, which TensorBoard shows instead of their numbers.
    """

    def __init__(
        self,
        folder: RunFolder,
        last_round: int = -1,
        last_step: int = 0,
        class_names: Mapping[int, str] | None = None,
    ):
        self._names = {f"class{c}": _as_tag(name) for c, name in (class_names or {}).items()}
        self._main = distributed.is_main()
        if self._main:
            _drop_lines(folder.metrics, last_round, last_step)
            self._log = folder.log.open("a", encoding="utf-8")
            self._metrics = folder.metrics.open("a", encoding="utf-8")
            # Written in this thread: a full disk then ends the run instead of a thread that the run waits for.
            folder.tensorboard.mkdir(parents=True, exist_ok=True)
            self._board = EventsWriter(str(folder.tensorboard / "events"), f".{os.getpid()}")
            self._flushed_at = time.monotonic()
            start = SessionLog(status=SessionLog.START)  # from this step on, earlier files are ignored
            self._board.write_event(Event(wall_time=time.time(), step=last_step + 1, session_log=start))

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
            values: by TensorBoard tag; there, the name of a class stands for classN at the end of a tag.
            context: joins the JSON object only, such as round and iteration.
        """
        if self._main:
            for tag, value in values.items():
                beginning, _, last = tag.rpartition("_")
                named = f"{beginning}_{self._names[last]}" if last in self._names else tag
                self._write_event(step, summary.scalar(named, value))
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


def _as_tag(name: str) -> str:
    """Return a name as a part of a tag; a slash would begin a group of its own."""
    return re.sub(r"[^\w.-]+", "_", name)


def _drop_lines(path: Path, last_round: int, last_step: int) -> None:
    """Keep the lines of finished steps and, of those without an iteration, of finished rounds."""
    kept = [
        json.dumps(line) + "\n"
        for line in read_steps(path)
        if line["step"] <= last_step and ("iteration" in line or line.get("round", 0) <= last_round)
    ]
    write_text(path, "".join(kept))
