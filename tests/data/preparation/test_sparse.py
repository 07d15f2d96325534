"""Slices between drawn ones, filled by the distance to the outlines."""

from __future__ import annotations

import numpy as np
import pytest

from semisam_o1.data.preparation.sparse import drawn_slices, fill_between


def ball(size: tuple[int, int, int] = (40, 36, 44), radius: float = 15) -> np.ndarray:
    places = np.indices(size) - (np.array(size) // 2).reshape(3, 1, 1, 1)
    return ((places**2).sum(axis=0) < radius**2).astype(np.uint8)


def keep(label: np.ndarray, axis: int, step: int, first: int = 0) -> np.ndarray:
    kept, where = np.zeros_like(label), [slice(None)] * 3
    where[axis] = slice(first, None, step)
    kept[tuple(where)] = label[tuple(where)]
    return kept


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("step", [2, 4, 5])
def test_a_ball_comes_back_from_a_part_of_its_slices(axis: int, step: int) -> None:
    label = ball()
    sparse = keep(label, axis, step)
    drawn = drawn_slices(sparse)
    assert (drawn.axis, drawn.step) == (axis, step)
    full = fill_between(sparse, drawn, (1.0, 1.0, 1.0))
    assert full.dtype == np.uint8
    np.testing.assert_array_equal(full.take(drawn.slices, axis), label.take(drawn.slices, axis))
    assert dice(sparse > 0, label > 0) < 0.7
    assert dice(full > 0, label > 0) > (0.95 if step < 5 else 0.94)


def test_between_two_squares_lies_the_one_of_mean_size() -> None:
    label = np.zeros((21, 21, 9), np.uint8)
    for z, half in ((0, 8), (4, 4), (8, 8)):
        label[10 - half : 11 + half, 10 - half : 11 + half, z] = 1
    full = fill_between(label, drawn_slices(label), (1.0, 1.0, 5.0))
    middle = np.zeros((21, 21), np.uint8)
    middle[4:17, 4:17] = 1
    np.testing.assert_array_equal(full[..., 2], middle)
    np.testing.assert_array_equal(full[..., 6], middle)


def test_every_class_is_filled_and_ends_where_it_is_no_longer_drawn() -> None:
    label = ball() + ball(radius=8)
    label[:20] *= 3  # values 3 and 6 beside 1 and 2
    sparse = keep(label, 2, 4)
    full = fill_between(sparse, drawn_slices(sparse), (1.0, 1.0, 1.0))
    for value in (1, 2, 3, 6):
        assert dice(full == value, label == value) > 0.9
    alone = np.zeros((12, 12, 13), np.uint8)
    alone[2:10, 2:10, ::4] = 1
    alone[..., 8] = 0
    filled = fill_between(alone, drawn_slices(alone, told=True), (1.0, 1.0, 1.0))
    assert filled[..., 2].any()


def test_dense_masks_are_not_taken_for_sparse_ones() -> None:
    assert drawn_slices(ball()) is None
    assert drawn_slices(np.zeros((4, 5, 6), np.uint8)) is None
    two = np.zeros((9, 9, 9), np.uint8)
    two[3:5, 3:5, [1, 6]] = 1  # two slices say nothing about a step
    assert drawn_slices(two) is None
    twice = keep(ball(), 2, 5)
    twice[..., 21] = ball()[..., 21]  # one slice beside a drawn one
    assert drawn_slices(twice) is None or drawn_slices(twice).axis != 2
    assert drawn_slices(twice, told=True).step == 5
