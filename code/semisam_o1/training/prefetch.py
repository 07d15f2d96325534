"""Prefetching: batches are made ahead of training, in a thread and on a CUDA stream of their own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable

import torch
from torch.utils.data import DataLoader, Dataset

from semisam_o1.data.sampling.batches import Batch, BatchStream
from semisam_o1.training.stopping import ignore_signals

QUEUE_SIZE = 3  # batches that are ready ahead


def on_device(
    batches: BatchStream, iterations: range, device: torch.device, num_workers: int | None
) -> Generator[Batch, None, None]:
    """Return the batches of some iterations on ``device``.

    For a GPU they are prefetched, so that no iteration waits for reading or copying. On a CPU a thread would compete
    with training for the same cores.

    Args:
        num_workers: processes that read patches; None where volumes are in memory.
    """
    if num_workers is None:
        source = (batches[t] for t in iterations)
    else:
        loader = DataLoader(
            ErrorsAsValues(batches),
            batch_size=None,
            sampler=iterations,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            multiprocessing_context="spawn" if num_workers else None,
            worker_init_fn=ignore_signals,
        )
        source = map(_raise_error, loader)
    return prefetched(source, device) if device.type == "cuda" else (batch.to(device) for batch in source)


def prefetched(batches: Iterable[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """Yield the batches on ``device``, made in a thread; what that thread raises is raised here."""
    ready: queue.Queue = queue.Queue(QUEUE_SIZE)
    closed = threading.Event()
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(device))  # the volumes may be on their way

    def enqueue(item: object) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def produce() -> None:
        try:
            if stream is not None:
                torch.cuda.set_device(device)  # a thread begins, and would end, on the first one
            with torch.cuda.stream(stream):  # of None: nothing
                for batch in batches:
                    batch = batch.to(device)
                    enqueue((batch, stream and stream.record_event()))
                    if closed.is_set():
                        return
            enqueue(None)
        except BaseException as error:
            enqueue(error)

    thread = threading.Thread(target=produce, name="batches", daemon=True)
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
        closed.set()
        thread.join()


class ErrorsAsValues(Dataset):
    """The batches as a worker process sends them: an error is returned as a value, so that PyTorch does not wrap it."""

    def __init__(self, batches: BatchStream):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, t: int) -> Batch | Exception:
        try:
            return self.batches[t]
        except Exception as error:
            return error


def _raise_error(batch: Batch | Exception) -> Batch:
    if isinstance(batch, Exception):
        raise batch
    return batch
