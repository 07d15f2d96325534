"""Inspection of volumes in child processes: a file that crashes or hangs the HDF5 library is a fault of that file.

Imports no PyTorch, so that the processes start quickly.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semisam_o1.core.errors import InputError, RunError
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Volume, content_hash

MAX_INTENSITY = 1e12  # absolute value; its square, summed over a volume, is still a float32
READ_TIMEOUT = 120.0  # seconds allowed for any file
MIN_READ_SPEED = 2**20  # bytes per second of a slow network drive, for additional time
CODE = Path(__file__).resolve().parents[3]
CHILD = "import sys; sys.path[0] = sys.argv[1]; from semisam_o1.data.preflight.inspection import serve; serve()"


@dataclass(frozen=True)
class VolumeInfo:
    """Properties of one volume."""

    name: str
    shape: tuple[int, int, int]  # (W, H, D)
    hash: str
    label_hash: str | None  # None without a label
    geometry: Geometry
    intensity: tuple[float, float] | None = None  # lowest and highest value of the image, where it is known


@dataclass(frozen=True)
class Need:
    """Requirements on a volume."""

    num_classes: int  # background included
    label: bool  # whether a label is required
    read_label: bool  # whether a label, if there is one, is read and must be valid


@dataclass(frozen=True)
class Report:
    """Result of the inspection of a volume."""

    info: VolumeInfo | None  # None if the volume cannot be read
    faults: tuple[str, ...] = ()  # one sentence per fault, each with the file's name
    classes: frozenset[int] = frozenset()  # label values, if the label was read


def inspect(dataset: Dataset, name: str, need: Need) -> Report:
    """Read one volume and list its faults."""
    try:
        volume = dataset.load(name)
    except InputError as error:
        return Report(None, (str(error),))
    image, label = volume.image, volume.label
    classes = frozenset() if label is None or not need.read_label else frozenset(np.unique(label).tolist())
    faults = tuple(f"{dataset.path(name)}: {fault}" for fault in _faults(volume, need, classes))
    label_hash = None if label is None else content_hash(label)
    intensity = (float(image.min()), float(image.max()))
    info = VolumeInfo(name, image.shape, content_hash(image), label_hash, volume.geometry, intensity)
    return Report(info, faults, classes)


def _faults(volume: Volume, need: Need, classes: Collection[int]) -> Iterator[str]:
    image = volume.image
    largest = image.flat[np.abs(image).argmax()]
    if invalid := np.count_nonzero(~np.isfinite(image)):
        yield f"the image holds {invalid} values that are NaN or infinite; replace them"
    elif abs(largest) > MAX_INTENSITY:
        beyond = f"values beyond {MAX_INTENSITY:g} are beyond float32 arithmetic"
        yield f"the image holds {largest:g}; {beyond}. Is that a mark for missing data? Replace it"
    elif image.min() == image.max():
        yield f"every voxel of the image is {image.flat[0]:g}; export the scan again"
    if volume.label is None and need.label:
        yield "the volume needs a label here and has none; add the dataset 'label'"
    elif classes and max(classes) >= need.num_classes:
        allowed = f"{need.num_classes} classes allow 0 to {need.num_classes - 1}"
        remedy = "raise the number of classes, or merge all foreground into one class"
        yield f"the label holds the value {max(classes)}, {allowed}; {remedy}"


def inspect_all(dataset: Dataset, needs: Sequence[tuple[str, Need]], workers: int) -> Iterator[Report]:
    """Yield the report of every (name, need), in order. Closing the iterator ends the child processes."""
    readers = [Reader() for _ in needs[:workers]]
    idle = deque(readers)  # never empty in ``read``, which runs in as many threads
    pool = ThreadPoolExecutor(workers)

    def read(item: tuple[str, Need]) -> Report:
        reader = idle.popleft()
        try:
            return reader.inspect(dataset, *item)
        finally:
            idle.append(reader)

    try:
        yield from pool.map(read, needs)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for reader in readers:
            reader.close()
        pool.shutdown()


class Reader:
    """A child process that inspects volumes; it is restarted after a file that ended it."""

    def __init__(self) -> None:
        self._closed = False
        self._process = start_child()

    def inspect(self, dataset: Dataset, name: str, need: Need) -> Report:
        """Return the child's report of a volume, or one that the child did not survive it."""
        path, process, start = dataset.path(name), self._process, time.monotonic()
        size = path.stat().st_size if os.path.isfile(path) else 0
        timer = threading.Timer(READ_TIMEOUT + size / MIN_READ_SPEED, process.kill)
        timer.start()
        try:
            pickle.dump((dataset, name, need), process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            process.kill()  # if it has not ended yet
        finally:
            timer.cancel()
        code = process.wait()
        if self._closed:
            raise RunError(f"{path} was not read: the child process was ended")
        self._process = start_child()
        if time.monotonic() - start >= timer.interval:
            return Report(None, (f"{path} could not be read in {timer.interval:.0f} s; write it again",))
        ending = f"exit code {code}" if code >= 0 else f"signal {-code}" + ", perhaps for lack of memory" * (code == -9)
        return Report(None, (f"{path} ends the process that reads it ({ending}); write it again",))

    def close(self) -> None:
        """End the child process."""
        self._closed = True
        with contextlib.suppress(OSError), self._process:
            self._process.kill()


def start_child() -> subprocess.Popen[bytes]:
    """Start a process that runs ``serve``."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(CODE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches the run alone, which ends its children
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )


def serve() -> None:
    """Answer requests on standard input until its end: the main function of a child process."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", 0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that output of libraries is not taken for an answer
    with contextlib.suppress(EOFError):
        while True:
            dataset, name, need = pickle.load(sys.stdin.buffer)
            try:
                report = inspect(dataset, name, need)
            except Exception as error:
                fault = f"{dataset.path(name)} cannot be used ({type(error).__name__}: {error}); write it again"
                report = Report(None, (fault,))
            answers.write(pickle.dumps(report))
