"""Batches: orientations, places, order, and what depends on the iteration alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from semisam_o1.data.sampling import batches
from semisam_o1.data.sampling.batches import ORIENTATIONS, BatchStream, orient, patch_start, source_size, write_patch

PATCH = (4, 6, 5)
(UPRIGHT,) = ORIENTATIONS["none"]
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


def make_stream(**changes) -> BatchStream:
    options = {"labeled_bs": 2, "batch_size": 6, "length": 50, "seed": (7, 1), "patch_size": PATCH} | changes
    return BatchStream(["t0", "t1"], ["u0", "u1", "u2", "u3"], image, label, **options)


def oriented(name: str) -> list[bytes]:
    box = torch.arange(18).reshape(3, 3, 2)
    return [orient(box, orientation).numpy().tobytes() for orientation in ORIENTATIONS[name]]


def test_the_eight_orientations_are_the_symmetries_of_the_square() -> None:
    box = np.arange(18).reshape(3, 3, 2)
    rotations = [np.rot90(box, k) for k in range(4)]
    mirrored = [np.flip(rotation, 0) for rotation in rotations]
    assert len(set(oriented("all"))) == 8
    assert set(oriented("all")) == {array.tobytes() for array in rotations + mirrored}
    assert sorted(oriented("rotations")) == sorted(array.tobytes() for array in rotations)
    flips = [box, np.flip(box, 0), np.flip(box, 1), np.flip(box, (0, 1))]
    assert sorted(oriented("flips")) == sorted(array.tobytes() for array in flips)
    assert oriented("none") == [box.tobytes()]


@pytest.mark.parametrize("orientation", ORIENTATIONS["all"])
def test_an_oriented_box_has_the_shape_of_the_patch(orientation) -> None:
    assert orient(torch.zeros(source_size(PATCH, orientation)), orientation).shape == PATCH


def step(item: torch.Tensor, axis: int) -> float:
    """Return by how much the value grows along an axis, zeros left out; it must be the same everywhere."""
    low, high = item.narrow(axis, 0, item.shape[axis] - 1), item.narrow(axis, 1, item.shape[axis] - 1)
    values = (high - low)[(low > 0) & (high > 0)].unique().tolist()
    assert len(values) == 1, values
    return values[0]


def test_all_orientations_are_drawn_alike() -> None:
    shape = (8, 8, 8)
    ramp = 1 + 100 * torch.arange(8.0)[:, None, None] + torch.arange(8.0)[:, None].expand(8, 8)

    def read(name: str) -> torch.Tensor:
        return ramp

    options = {"patch_size": shape, "labeled_bs": 1, "batch_size": 2, "length": 400, "seed": (1,)}
    stream = BatchStream(["t"], ["u"], read, read, **options)
    items = [item for t in range(400) for item in stream[t].image[:, 0]]
    seen = Counter((step(item, 0), step(item, 1)) for item in items)
    assert set(seen) == {(a * x, b * y) for a, b in ((100, 1), (1, 100)) for x in (1, -1) for y in (1, -1)}
    assert max(seen.values()) < 1.7 * min(seen.values())


@pytest.mark.parametrize(
    ("length", "patch", "first", "last"),
    [
        (10, 4, 0, 6),  # inside the volume
        (5, 4, 0, 1),
        (4, 4, -3, 3),  # padded by the margin of 3
        (3, 4, -3, 2),  # and by half of what is missing, rounded down
        (2, 4, -4, 2),
    ],
)
def test_starts_reach_both_ends_evenly_and_nothing_else(length: int, patch: int, first: int, last: int) -> None:
    numbers = [*np.linspace(0, 1, 7000, endpoint=False), np.nextafter(1, 0)]
    starts = Counter(patch_start((length, 9, 9), (patch, 9, 9), (u, 0.5, 0.5))[0] for u in numbers)
    assert sorted(starts) == list(range(first, last + 1))
    assert max(starts.values()) - min(starts.values()) <= 2


def written(volume: torch.Tensor, start: tuple[int, ...], shape: tuple[int, ...], orientation=UPRIGHT) -> torch.Tensor:
    out = torch.full(shape, -1, dtype=volume.dtype)
    write_patch(out, volume, start, orientation)
    return out


def test_a_patch_is_zero_outside_of_the_volume() -> None:
    volume = torch.arange(1, 7).reshape(2, 3, 1)
    assert written(volume, (-1, 1, 0), (3, 3, 1))[..., 0].tolist() == [[0, 0, 0], [2, 3, 0], [5, 6, 0]]
    assert written(volume, (1, 0, -1), (1, 2, 3))[0].tolist() == [[0, 4, 0], [0, 5, 0]]
    assert written(volume, (0, 1, 0), (2, 2, 1))[..., 0].tolist() == [[2, 3], [5, 6]]


@pytest.mark.parametrize("orientation", ORIENTATIONS["all"])
@pytest.mark.parametrize("start", [(0, 1, 0), (-2, 3, 1), (3, -1, -2)])
def test_a_patch_is_the_oriented_box_by_view_and_by_copies(
    start: tuple[int, ...], orientation, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = image("t0")
    box = written(volume, start, source_size(PATCH, orientation))
    expected = orient(box, orientation)
    assert torch.equal(written(volume, start, PATCH, orientation), expected)
    monkeypatch.setattr(batches, "_write_by_view", batches._write_by_copies)
    assert torch.equal(written(volume, start, PATCH, orientation), expected)


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
        share = make_stream(part=(rank, ranks), **sizes)[4]
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
