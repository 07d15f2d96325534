"""Batches made ahead of the training that uses them, by a thread and on a CUDA stream of their own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable

import torch
from torch.utils.data import DataLoader, Dataset

from semisam_o1.data.sampling.batches import Batch, BatchStream
from semisam_o1.training.stopping import ignore_signals

AHEAD = 3  # batches that wait


def on_device(
    batches: BatchStream, iterations: range, device: torch.device, num_workers: int | None
) -> Generator[Batch, None, None]:
    """Return the batches of some iterations on ``device``.

    For a GPU they are made ahead, so that neither reading nor copying holds up the iterations. On a CPU a thread would
    take from the training what it gives.

    Args:
        num_workers: processes that read patches; None where volumes are in memory.
    """
    if num_workers is None:
        source = (batches[t] for t in iterations)
    else:
        source = map(_checked, DataLoader(
            Carried(batches),
            batch_size=None,
            sampler=iterations,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            multiprocessing_context="spawn" if num_workers else None,
            worker_init_fn=ignore_signals,
        ))  # fmt: skip
    return ahead(source, device) if device.type == "cuda" else (batch.to(device) for batch in source)


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


class Carried(Dataset):
    """The batches as a worker process sends them: an error travels as a value, without PyTorch's wrapping."""

    def __init__(self, batches: BatchStream):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, t: int) -> Batch | Exception:
        try:
            return self.batches[t]
        except Exception as error:
            return error


def _checked(batch: Batch | Exception) -> Batch:
    if isinstance(batch, Exception):
        raise batch
    return batch
