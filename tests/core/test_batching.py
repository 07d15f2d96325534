"""Several batches per call, fewer after memory ran out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semisam_o1.core.device import OutOfMemorySafeBatcher


def test_results_come_back_in_order_whatever_is_batcher(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [torch.full((1 + i % 2, 2), float(i)) for i in range(7)]
    for most in (1, 6, 100):
        monkeypatch.setitem(OutOfMemorySafeBatcher.MAX_ELEMENTS, "cpu", most)
        results = list(OutOfMemorySafeBatcher()(torch.neg, batches))
        assert all(torch.equal(a, -b) for a, b in zip(results, batches, strict=True))


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")]
)
def test_fewer_share_a_call_once_memory_ran_out(error: RuntimeError) -> None:
    sizes: list[int] = []

    def room_for_three(x: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > 3:
            raise error
        return x + 1

    batcher = OutOfMemorySafeBatcher()
    batches = [torch.tensor([float(i)]) for i in range(10)]
    assert [r.item() for r in batcher(room_for_three, batches)] == list(range(1, 11))
    assert sizes == [10, 5, 2, 2, 2, 2, 2]
    sizes.clear()
    list(batcher(room_for_three, batches[:4]))
    assert sizes == [2, 2]


def test_chunks_are_equal_rather_than_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OutOfMemorySafeBatcher.MAX_ELEMENTS, "cpu", 8)
    sizes: list[int] = []

    def counted(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x

    list(OutOfMemorySafeBatcher()(counted, [torch.zeros(1)] * 9))
    assert sizes == [5, 4]


def test_other_errors_are_raised_at_once() -> None:
    def wrong(x: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match")

    batcher = OutOfMemorySafeBatcher()
    with pytest.raises(RuntimeError, match="shapes"):
        list(batcher(wrong, [torch.zeros(1), torch.zeros(1)]))


def test_one_batch_that_is_too_large_is_an_error() -> None:
    def no_room(x: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(OutOfMemorySafeBatcher()(no_room, [torch.zeros(1), torch.zeros(1)]))
