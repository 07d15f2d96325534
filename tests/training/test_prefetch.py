"""Batches from a thread: the same ones, in order, with its errors, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from method_helpers import make_batch
from semisam_o1.data.sampling.batches import Batch
from semisam_o1.training.prefetch import QUEUE_SIZE, on_device, prefetched

CPU = torch.device("cpu")


def threads() -> int:
    return sum(thread.name.startswith("batches") for thread in threading.enumerate())


def counted(length: int, made: list[int]) -> Iterator[Batch]:
    for t in range(length):
        made.append(t)
        yield make_batch(seed=t)


def test_batches_come_in_order() -> None:
    found = list(prefetched(counted(7, []), CPU))
    assert len(found) == 7
    for t, batch in enumerate(found):
        assert torch.equal(batch.image, make_batch(seed=t).image)
    assert threads() == 0


def test_only_the_iterations_that_are_left_are_made() -> None:
    stream = [make_batch(seed=t) for t in range(5)]
    found = list(on_device(stream, range(3, 5), CPU, 0))
    assert [torch.equal(batch.image, stream[t].image) for t, batch in zip((3, 4), found, strict=True)] == [True, True]


def test_a_few_are_made_ahead_and_no_more() -> None:
    made: list[int] = []
    batches = prefetched(counted(100, made), CPU)
    next(batches)
    for _ in range(100):
        if len(made) == QUEUE_SIZE + 1:  # given out, and waiting
            break
        threading.Event().wait(0.02)
    threading.Event().wait(0.05)
    assert len(made) == QUEUE_SIZE + 1
    batches.close()
    assert threads() == 0


def test_an_error_of_the_thread_is_raised_in_its_turn() -> None:
    def failing() -> Iterator[Batch]:
        yield make_batch()
        raise ValueError("volume 7 is damaged")

    batches = prefetched(failing(), CPU)
    next(batches)
    with pytest.raises(ValueError, match="volume 7"):
        next(batches)
    assert threads() == 0
