"""Volumes read in processes of their own: a file that crashes or hangs the HDF5 library is a fault of that file.

Free of PyTorch, so that the processes start at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from semisam_o1.core.errors import RunError
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preflight.inspection import Need, Report, inspect

PATIENCE = 120.0  # seconds that a file may take
SLOWEST = 2**20  # bytes per second that even a slow network drive delivers, on top of that
CODE = Path(__file__).resolve().parents[3]
START = "import sys; sys.path[0] = sys.argv[1]; from semisam_o1.data.preflight.readers import serve; serve()"


def inspect_all(dataset: Dataset, needs: Sequence[tuple[str, Need]], workers: int) -> Iterator[Report]:
    """Yield the report of every (name, need), in order; whoever stops early ends the processes."""
    readers: SimpleQueue[Reader] = SimpleQueue()
    started: list[Reader] = []

    def ask(item: tuple[str, Need]) -> Report:
        reader = readers.get()
        try:
            return reader.ask(dataset, *item)
        finally:
            readers.put(reader)

    pool = ThreadPoolExecutor(workers)
    try:
        for _ in range(workers):
            started.append(Reader())
            readers.put(started[-1])
        yield from pool.map(ask, needs)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for reader in started:
            reader.close()
        pool.shutdown()


class Reader:
    """A child process that reads volumes, started anew after a file that it did not survive."""

    def __init__(self) -> None:
        self._closed = False
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", START, str(CODE)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the run, which ends its readers itself
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip

    def ask(self, dataset: Dataset, name: str, need: Need) -> Report:
        """Return what the child says of a volume, or that it did not come back from it."""
        request = {
            "root": str(dataset.root), "image_key": dataset.image_key, "binary_label": dataset.binary_label,
            "name": name, "need": [need.num_classes, need.label, need.read_label],
        }  # fmt: skip
        process = self._process
        path = dataset.path(name)
        late = threading.Event()
        timer = threading.Timer(PATIENCE + _size(path) / SLOWEST, lambda: (late.set(), process.kill()))
        timer.start()
        answer = ""
        try:
            with contextlib.suppress(OSError):  # it died: there will be no answer
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
            answer = process.stdout.readline()
        finally:
            timer.cancel()
        if answer.endswith("\n"):
            return Report.from_json(json.loads(answer))
        code = process.wait()
        if self._closed:
            raise RunError(f"{path} was not read: the readers were ended")
        self._process = self._start()
        if late.is_set():
            return Report(None, (f"{path} could not be read in {timer.interval:.0f} s; write it again",))
        return Report(None, (f"{path} ends the process that reads it ({_how(code)}); write it again",))

    def close(self) -> None:
        """End the child."""
        self._closed = True
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


def serve() -> None:
    """Answer one request a line, until there are no more: the child's side."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is not an answer
    for line in sys.stdin:
        request = json.loads(line)
        dataset = Dataset(Path(request["root"]), request["image_key"], request["binary_label"])
        try:
            report = inspect(dataset, request["name"], Need(*request["need"]))
        except Exception as error:
            path = dataset.path(request["name"])
            report = Report(None, (f"{path} cannot be used ({type(error).__name__}: {error}); write it again",))
        answers.write(json.dumps(report.as_json()) + "\n")
        answers.flush()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0


def _how(code: int) -> str:
    if code == -9:
        return "killed, perhaps for want of memory"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
