"""The allocator's settings, and the limits of control groups."""

from __future__ import annotations

import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from semisam_o1 import PROJECT_ROOT
from semisam_o1.core import memory


@pytest.mark.parametrize("high", [1, 0], ids=["threshold", "older glibc"])
def test_glibc_is_configured_on_old_and_new_versions(high: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Library:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            calls.append((option, value))
            return high if option == memory.M_MMAP_THRESHOLD else 1

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert not memory.configure_allocator("cuda")
    assert calls == []
    assert memory.configure_allocator("cpu")
    assert ((memory.M_MMAP_MAX, 0) in calls) == (not high)
    assert calls[-1][0] == memory.M_TRIM_THRESHOLD
    calls.clear()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")
    assert not memory.configure_allocator("cpu")
    assert calls == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_not_mapped_again() -> None:
    script = """
import resource, sys
from semisam_o1.core.memory import configure_allocator
if sys.argv[1] == "keep":
    assert configure_allocator("cpu")
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


def limited(folder: Path, **values: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name.replace("__", ".")).write_text(value)


@pytest.mark.parametrize("limit", [{"memory__max": "1000"}, {"memory__max": "max"}])
def test_what_the_control_groups_of_a_process_leave_is_available(limit: dict[str, str], tmp_path: Path) -> None:
    usage = {"memory__current": "700", "memory__stat": "anon 500\ninactive_file 150\n"}
    limited(tmp_path / "job", memory__max="5000", memory__current="4900", memory__stat="anon 1")
    limited(tmp_path / "job" / "step", **limit, **usage)
    (tmp_path / "membership").write_text("0::/job/step\n")
    free = memory._free_in_groups(tmp_path / "membership", tmp_path)
    assert min(free) == 100
    assert (450 in free) == (limit["memory__max"] != "max")
    assert memory._free_in_groups(tmp_path / "nothing", tmp_path) == [math.inf]


def test_older_control_groups_limit_memory_too(tmp_path: Path) -> None:
    folder = tmp_path / "memory" / "job"
    stat = "inactive_file 5\ntotal_inactive_file 20\n"
    limited(folder, memory__limit_in_bytes="1000", memory__usage_in_bytes="900", memory__stat=stat)
    (tmp_path / "membership").write_text("4:memory:/job\n3:cpuset:/job\n")
    assert min(memory._free_in_groups(tmp_path / "membership", tmp_path)) == 120
