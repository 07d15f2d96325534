"""Batches: orientations, order, and what depends on the iteration alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from semisam_o1.data.sampling import batches
from semisam_o1.data.sampling.augmentation import Augmentation
from semisam_o1.data.sampling.batches import BatchSettings, BatchStream
from semisam_o1.data.sampling.local_zoom import LocalZoom
from semisam_o1.data.sampling.patches import ORIENTATIONS
from volume_source import Source

PATCH = (4, 6, 5)
SHAPES = {
    "t0": (5, 7, 6),
    "t1": (3, 6, 9),
    "u0": (8, 4, 5),
    "u1": (6, 6, 6),
    "u2": (4, 9, 3),
    "u3": (5, 5, 5),
}


def image(name: str) -> torch.Tensor:
    """Return a volume in which every voxel has a value of its own, none 0."""
    shape = SHAPES[name]
    return torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float32).reshape(shape)


def label(name: str) -> torch.Tensor:
    return image(name).to(torch.uint8)


def make_stream(shard: tuple[int, int] = (0, 1), **changes) -> BatchStream:
    settings = replace(BatchSettings(PATCH, labeled_bs=2, batch_size=6, length=50, seed=(7, 1)), **changes)
    return BatchStream(["t0", "t1"], ["u0", "u1", "u2", "u3"], Source(image, label), settings, shard)


def step(item: torch.Tensor, axis: int) -> float:
    """Return by how much the value grows along an axis, zeros left out; it must be the same everywhere."""
    low, high = item.narrow(axis, 0, item.shape[axis] - 1), item.narrow(axis, 1, item.shape[axis] - 1)
    values = (high - low)[(low > 0) & (high > 0)].unique().tolist()
    assert len(values) == 1, values
    return values[0]


def test_all_orientations_are_drawn_alike() -> None:
    ramp = 1 + 100 * torch.arange(8.0)[:, None, None] + torch.arange(8.0)[:, None].expand(8, 8)

    settings = BatchSettings((8, 8, 8), labeled_bs=1, batch_size=2, length=400, seed=(1,))
    stream = BatchStream(["t"], ["u"], Source(lambda _: ramp, lambda _: ramp), settings)
    items = [item for t in range(400) for item in stream[t].image[:, 0]]
    seen = Counter((step(item, 0), step(item, 1)) for item in items)
    assert set(seen) == {(a * x, b * y) for a, b in ((100, 1), (1, 100)) for x in (1, -1) for y in (1, -1)}
    assert max(seen.values()) < 1.7 * min(seen.values())


def test_batch_holds_labeled_items_first_with_image_and_label_aligned() -> None:
    stream = make_stream()
    assert len(stream) == 50
    for t in range(20):
        batch = stream[t]
        assert batch.labeled == 2
        assert [name[0] for name in batch.names] == ["t", "t", "u", "u", "u", "u"]
        assert batch.image.shape == (6, 1, *PATCH)
        assert batch.label.shape == (6, *PATCH)
        assert (batch.image.dtype, batch.label.dtype) == (torch.float32, torch.uint8)
        assert torch.equal(batch.image[:, 0].to(torch.uint8), batch.label)
        assert batch.image.max() > 0


def test_every_volume_is_visited_equally_often_in_changing_order() -> None:
    stream = make_stream(batch_size=5)  # 3 unlabeled items a batch, 4 volumes
    batches = [stream[t] for t in range(8)]
    visits = Counter(name for batch in batches for name in batch.names)
    assert visits == {"t0": 8, "t1": 8, "u0": 6, "u1": 6, "u2": 6, "u3": 6}
    order = [name for batch in batches for name in batch.names[2:]]
    rounds = [tuple(order[i : i + 4]) for i in range(0, 24, 4)]
    assert all(sorted(names) == ["u0", "u1", "u2", "u3"] for names in rounds)
    assert len(set(rounds)) > 1


def test_batch_depends_on_seed_and_iteration_alone() -> None:
    first, second = make_stream(), make_stream()
    for t in range(5):
        second[t]
    assert first[9].names == second[9].names
    assert torch.equal(first[9].image, second[9].image)
    assert not torch.equal(first[9].image, first[10].image)
    assert not torch.equal(first[9].image, make_stream(seed=(7, 2))[9].image)


def test_restricted_orientations_are_kept_to() -> None:
    stream = make_stream(orientations=ORIENTATIONS["none"], patch_size=(8, 9, 8))
    for batch in (stream[t] for t in range(10)):
        for name, item in zip(batch.names, batch.image[:, 0], strict=True):
            _, height, depth = SHAPES[name]
            assert [step(item, axis) for axis in range(3)] == [height * depth, depth, 1]


@pytest.mark.parametrize("ranks", [2, 3])
def test_shares_of_the_ranks_make_up_the_whole_batch(ranks: int) -> None:
    sizes = {"labeled_bs": ranks, "batch_size": 3 * ranks}
    whole = make_stream(**sizes)[4]
    for rank in range(ranks):
        share = make_stream((rank, ranks), **sizes)[4]
        own = [*range(rank, ranks, ranks), *range(ranks + rank, 3 * ranks, ranks)]
        assert share.labeled == 1
        assert share.names == tuple(whole.names[i] for i in own)
        assert torch.equal(share.image, whole.image[own])
        assert torch.equal(share.label, whole.label[own])


def test_to_moves_both_tensors() -> None:
    moved = make_stream()[0].to(torch.device("meta"))
    assert moved.image.is_meta
    assert moved.label.is_meta
    assert (moved.labeled, moved.names) == (2, make_stream()[0].names)


@pytest.mark.parametrize("foreground", [0.0, 1.0])
def test_local_zooms_reach_patches_of_large_scans(foreground: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The structure lies far from the first voxel, and the patch anywhere."""
    shape, center = (60, 56, 40), (40, 20, 25)
    axes = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    truth = (sum((axis - c).square() for axis, c in zip(axes, center, strict=True)) < 36).to(torch.uint8)
    source = Source(lambda name: truth.float(), lambda name: truth)
    augmentation = Augmentation(local=True, spacing=(1.0, 1.0, 1.0))
    settings = BatchSettings((56, 48, 36), 1, 2, 9, (4,), foreground=foreground, augmentation=augmentation)
    grown = LocalZoom(np.array(center), np.full(3, 8.0), np.full(3, -0.5))
    monkeypatch.setattr(batches, "draw_local_zoom", lambda *structure: grown)
    stream = BatchStream(["a"], ["b"], source, settings)
    assert min(part.sum() for t in range(9) for part in stream[t].label) > 1.5 * truth.sum()
