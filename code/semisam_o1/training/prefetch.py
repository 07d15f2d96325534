"""Batches made ahead of the training that uses them, by a thread and on a CUDA stream of their own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable

import torch

from ..data.batches import Batch

AHEAD = 3  # batches that wait


def on_device(batches: Iterable[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """Return the batches on ``device``.

    For a GPU they are made ahead, so that neither reading nor copying holds up the iterations. On a CPU a thread would
    take from the training what it gives.
    """
    return ahead(batches, device) if device.type == "cuda" else (batch.to(device) for batch in batches)


def ahead(batches: Iterable[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """Yield the batches on ``device``, made by a thread of their own; what that thread raises is raised here."""
    ready: queue.Queue = queue.Queue(AHEAD)
    ended = threading.Event()
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(device))  # the volumes may be on their way

    def put(item: object) -> None:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def make() -> None:
        try:
            if stream is not None:
                torch.cuda.set_device(device)  # a thread begins, and would end, on the first one
            with torch.cuda.stream(stream):  # of None: nothing
                for batch in batches:
                    batch = batch.to(device)
                    put((batch, stream and stream.record_event()))
                    if ended.is_set():
                        return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, name="batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            batch, made = item
            if made is not None:
                training = torch.cuda.current_stream(device)
                training.wait_event(made)
                batch.used_on(training)
            yield batch
    finally:
        ended.set()
        thread.join()
