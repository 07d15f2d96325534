"""Prefetching: batches are made ahead of training, in a thread and on a CUDA stream of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils.data import DataLoader, Dataset

from semisam_o1.data.sampling.batches import Batch, BatchStream
from semisam_o1.training.stopping import ignore_signals

QUEUE_SIZE = 3  # batches that are ready ahead


def on_device(
    batches: BatchStream, iterations: range, device: torch.device, num_workers: int
) -> Generator[Batch, None, None]:
    """Return the batches of some iterations on ``device``.

    For a GPU they are prefetched, so that no iteration waits for reading or copying. On a CPU a thread would compete
    with training for the same cores. ``num_workers`` processes read patches; 0 stands for this one.
    """
    source = (batches[t] for t in iterations)
    if num_workers:
        loader = DataLoader(
            ErrorsAsValues(batches),
            batch_size=None,
            sampler=iterations,
            num_workers=num_workers,
            multiprocessing_context="spawn",
            worker_init_fn=ignore_signals,
        )
        source = map(_raise_error, loader)
    return prefetched(source, device) if device.type == "cuda" else (batch.to(device) for batch in source)


def prefetched(batches: Iterator[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """Yield the batches on ``device``, made in a thread; what that thread raises is raised here."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(device))  # the volumes may be on their way

    def make() -> tuple[Batch, torch.cuda.Event | None] | None:
        if stream is not None:
            torch.cuda.set_device(device)  # a thread begins, and would end, on the first one
        with torch.cuda.stream(stream):  # of None: nothing
            batch = next(batches, None)
            return batch and (batch.to(device), stream and stream.record_event())

    thread = ThreadPoolExecutor(1, "batches")
    ahead = deque(thread.submit(make) for _ in range(QUEUE_SIZE))
    try:
        while (made := ahead.popleft().result()) is not None:
            ahead.append(thread.submit(make))
            batch, event = made
            if event is not None:
                training = torch.cuda.current_stream(device)
                training.wait_event(event)
                batch.used_on(training)
            yield batch
    finally:
        thread.shutdown(cancel_futures=True)


class ErrorsAsValues(Dataset):
    """The batches as a worker process sends them: an error is returned as a value, so that PyTorch does not wrap it."""

    def __init__(self, batches: BatchStream):
        self.batches = batches

    def __getitem__(self, t: int) -> Batch | Exception:
        try:
            return self.batches[t]
        except Exception as error:
            return error


def _raise_error(batch: Batch | Exception) -> Batch:
    if isinstance(batch, Exception):
        raise batch
    return batch
