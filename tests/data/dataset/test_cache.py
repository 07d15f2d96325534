"""The cache of arrays on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from semisam_o1.data.dataset.cache import ArrayCache, ScratchCache


def test_threads_may_store_the_same_at_the_same_time(tmp_path: Path) -> None:
    cache, values = ArrayCache(tmp_path), np.arange(50_000)

    def put(count: int) -> None:
        for key in range(40):
            cache.put(f"{key}", values=values)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(4)))
    assert all(np.array_equal(cache.get(f"{key}", values=1)["values"], values) for key in range(40))
    assert len(list(tmp_path.iterdir())) == 40


def test_a_scratch_cache_reads_files_and_writes_none(tmp_path: Path) -> None:
    ArrayCache(tmp_path).put("set/kept", values=np.arange(3))
    scratch = ScratchCache(tmp_path)
    scratch.put("set/other", values=np.arange(4))
    assert scratch.get("set/kept", values=1)["values"].tolist() == [0, 1, 2]
    assert scratch.get("set/other", values=1)["values"].tolist() == [0, 1, 2, 3]
    assert "set/kept" in scratch and "set/other" in scratch
    assert [path.name for path in tmp_path.rglob("*.npz")] == ["kept.npz"]
    scratch.drop("other")
    assert scratch.get("set/other") is None and "set/kept" in scratch
