"""Position and orientation of patches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from semisam_o1.data.sampling import patches
from semisam_o1.data.sampling.patches import ORIENTATIONS, orient, patch_start, source_size, write_patch

PATCH = (4, 6, 5)
(UPRIGHT,) = ORIENTATIONS["none"]


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
    volume = torch.arange(1.0, 211).reshape(5, 7, 6)
    box = written(volume, start, source_size(PATCH, orientation))
    expected = orient(box, orientation)
    assert torch.equal(written(volume, start, PATCH, orientation), expected)
    monkeypatch.setattr(patches, "_write_by_view", patches._write_by_copies)
    assert torch.equal(written(volume, start, PATCH, orientation), expected)
