"""Cached volumes, sources of labels, and the array cache on disk."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from semisam_o1.core.atomic_io import WriteError
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.volumes import Dataset, Volume, write_volume
from semisam_o1.data.sampling import store
from semisam_o1.data.sampling.store import PseudoLabeledVolumes, VolumeStore, choose_cache

CPU = torch.device("cpu")


def test_auto_chooses_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "available_memory", lambda: 1000)
    assert choose_cache("auto", CPU, 400, 0)[0] == "ram"
    assert choose_cache("auto", CPU, 600, 0)[0] == "none"
    assert choose_cache("ram", CPU, 600, 0)[0] == "ram"
    assert choose_cache("gpu", CPU, 400, 0) == ("ram", "0.00 GiB of volumes; there is no GPU")


def test_on_a_gpu_training_needs_memory_beside_the_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    gib, gpu = 2**30, torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * gib, 12 * gib))
    monkeypatch.setattr(store, "available_memory", lambda: 20 * gib)
    assert choose_cache("auto", gpu, 4 * gib, 3 * gib) == (
        "gpu",
        "4.00 GiB of volumes and 4.0 GiB for training fit on the GPU",
    )
    assert choose_cache("auto", gpu, 4 * gib, 5 * gib) == (
        "ram",
        "4.00 GiB of volumes and 6.0 GiB for training do not fit into 10.0 GiB of GPU memory; the volumes fit in RAM",
    )
    assert choose_cache("auto", gpu, 11 * gib, 5 * gib)[0] == "none"


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_volumes_are_the_files(cache: str, tmp_path: Path) -> None:
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    write_volume(tmp_path / "data" / "a.h5", Volume("a", image, image % 2))
    write_volume(tmp_path / "data" / "b.h5", Volume("b", image))
    volumes = VolumeStore(Dataset(tmp_path), ["a", "b"], cache, CPU)
    assert volumes.in_memory == (cache == "ram")
    assert volumes.image("a").dtype == torch.float32
    assert np.array_equal(volumes.image("a"), image)
    assert np.array_equal(volumes.label("a"), image % 2)
    assert volumes.label("b") is None


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_unlabeled_volumes_have_pseudo_labels_and_true_labels_have_full_weight(cache: str, tmp_path: Path) -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for name in "ab":
        write_volume(tmp_path / "data" / f"{name}.h5", Volume(name, image, image % 2))
    volumes = VolumeStore(Dataset(tmp_path), ["a", "b"], cache, CPU)
    plain = PseudoLabeledVolumes(volumes, ["b"], partial(answer, image % 5))
    weighted = PseudoLabeledVolumes(volumes, ["b"], partial(answer, image % 5), partial(answer, image))
    assert plain.weight("a") is plain.weight("b") is None
    for source in (weighted, pickle.loads(pickle.dumps(weighted))):  # as worker processes get it
        assert np.array_equal(source.image("b"), image)
        assert np.array_equal(source.label("a"), image % 2)
        assert np.array_equal(source.label("b"), image % 5)
        assert np.array_equal(source.weight("b"), image)
        assert source.weight("a").shape == image.shape
        assert source.weight("a").unique().tolist() == [255]


def answer(array: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    return dict.fromkeys(names, array)


def test_kept_arrays_are_found_again_and_damaged_ones_are_not(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path / "features")
    assert cache.get("set/one") is None
    cache.put("set/one", spatial=np.arange(3), whole=np.ones(2))
    kept = cache.get("set/one")
    assert np.array_equal(kept["spatial"], [0, 1, 2])
    path = tmp_path / "features" / "set" / "one.npz"
    path.write_bytes(path.read_bytes()[:100])
    assert cache.get("set/one") is None


def test_a_dataset_that_cannot_be_written_has_a_fallback(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file where the folder should be")
    cache = ArrayCache(tmp_path / "features", tmp_path / "run")
    cache.put("one", whole=np.ones(2))
    assert (tmp_path / "run" / "one.npz").is_file()
    assert np.array_equal(cache.get("one")["whole"], [1, 1])
    with pytest.raises(WriteError, match="features"):
        ArrayCache(tmp_path / "features").put("one", whole=np.ones(2))
