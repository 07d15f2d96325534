"""Several batches at once, fewer where memory ends; what the allocator keeps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from semisam_o1 import PROJECT_ROOT
from semisam_o1.core import memory
from semisam_o1.core.memory import Joined

CPU = torch.device("cpu")


def test_results_come_back_in_order_whatever_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [torch.full((1 + i % 2, 2), float(i)) for i in range(7)]
    for most in (1, 6, 100):
        monkeypatch.setitem(Joined.MOST, "cpu", most)
        results = list(Joined(2, CPU)(torch.neg, batches))
        assert all(torch.equal(a, -b) for a, b in zip(results, batches, strict=True))


def test_fewer_are_joined_where_memory_ends_and_from_then_on() -> None:
    sizes: list[int] = []

    def room_for_three(x: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return x + 1

    joined = Joined(1, CPU)
    batches = [torch.tensor([float(i)]) for i in range(10)]
    assert [r.item() for r in joined(room_for_three, batches)] == list(range(1, 11))
    assert sizes == [10, 5, 2, 2, 2, 2, 2]
    sizes.clear()
    list(joined(room_for_three, batches[:4]))
    assert sizes == [2, 2]


def test_parts_are_equal_rather_than_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Joined.MOST, "cpu", 8)
    sizes: list[int] = []

    def counted(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x

    list(Joined(1, CPU)(counted, [torch.zeros(1)] * 9))
    assert sizes == [5, 4]


def test_one_batch_that_is_too_large_is_an_error() -> None:
    def no_room(x: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(Joined(1, CPU)(no_room, [torch.zeros(1), torch.zeros(1)]))


@pytest.mark.parametrize("high", [1, 0], ids=["threshold", "older glibc"])
def test_glibc_is_told_one_way_or_the_other(high: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    class Library:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            told.append((option, value))
            return high if option == memory.M_MMAP_THRESHOLD else 1

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert memory.keep_freed_memory()
    assert ((memory.M_MMAP_MAX, 0) in told) == (not high)
    assert told[-1][0] == memory.M_TRIM_THRESHOLD
    told.clear()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")
    assert not memory.keep_freed_memory()
    assert told == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be told")
def test_freed_memory_is_not_mapped_again() -> None:
    script = """
import resource, sys
from semisam_o1.core.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import torch
def touch(): torch.ones(16, 2**20)
for _ in range(20): touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    capture = {"capture_output": True, "text": True, "check": True}
    faults = [
        int(subprocess.run([sys.executable, "-c", script, how], cwd=PROJECT_ROOT / "code", **capture).stdout)
        for how in ("keep", "default")
    ]
    assert faults[0] < faults[1] / 20
