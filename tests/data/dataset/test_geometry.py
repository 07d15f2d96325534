"""Padding, cropping, pasting back and nearest-neighbor sampling on hand-written grids."""

from __future__ import annotations

import numpy as np
import pytest

from semisam_o1.data.dataset.geometry import centered_padding, centered_window, from_patch, resize_nearest, to_patch


def line(values: list[int], axis: int) -> np.ndarray:
    shape = [1, 1, 1]
    shape[axis] = len(values)
    return np.array(values).reshape(shape)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("values", "patch", "expected"),
    [
        ([1, 2], 4, [0, 1, 2, 0]),
        ([1, 2], 5, [0, 1, 2, 0, 0]),  # 3 missing: floor half in front
        ([1, 2, 3], 4, [1, 2, 3, 0]),
        ([1, 2, 3, 4], 4, [1, 2, 3, 4]),
        ([1, 2, 3, 4], 2, [2, 3]),
        ([1, 2, 3, 4, 5], 2, [2, 3]),  # 3 too many: crop from 3 // 2
        ([1, 2, 3, 4], 1, [2]),
    ],
)
def test_volume_is_centered_in_the_patch(axis: int, values: list, patch: int, expected: list) -> None:
    size = [1, 1, 1]
    size[axis] = patch
    np.testing.assert_array_equal(to_patch(line(values, axis), size), line(expected, axis))


def test_axes_are_padded_and_cropped_independently() -> None:
    volume = np.arange(1, 13).reshape(2, 6, 1)  # rows 1…6 and 7…12
    expected = [[0, 0], [3, 4], [9, 10], [0, 0]]
    np.testing.assert_array_equal(to_patch(volume, (4, 2, 1))[..., 0], expected)


@pytest.mark.parametrize("shape", [(3, 7, 12), (8, 8, 8), (9, 5, 11), (1, 20, 8)])
def test_pasting_back_restores_what_the_patch_saw(shape: tuple[int, ...]) -> None:
    volume = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    restored = from_patch(to_patch(volume, (8, 8, 8)), shape)
    in_volume, in_patch = centered_window(shape, (8, 8, 8))
    seen = np.zeros(shape, bool)
    seen[in_volume] = True
    np.testing.assert_array_equal(restored, np.where(seen, volume, 0))
    assert seen.sum() == np.prod([min(n, 8) for n in shape])
    assert [s.stop - s.start for s in in_volume] == [s.stop - s.start for s in in_patch]


def test_dtype_is_kept() -> None:
    label = np.ones((2, 9, 4), np.uint8)
    assert to_patch(label, (4, 4, 4)).dtype == np.uint8
    assert from_patch(to_patch(label, (4, 4, 4)), label.shape).dtype == np.uint8


@pytest.mark.parametrize(("size", "out"), [(8, 3), (3, 8), (5, 5), (7, 1), (128, 8), (8, 128)])
def test_resize_shows_the_index_floor_of_i_in_over_out(size: int, out: int) -> None:
    resized = resize_nearest(np.arange(size).reshape(1, size, 1), (1, out, 1))
    assert resized.ravel().tolist() == [int(i * size / out) for i in range(out)]


def test_resize_by_hand_on_two_axes() -> None:
    grid = np.array([[1, 2, 3], [4, 5, 6]])[:, :, None]
    expected = np.array([[1, 1, 2, 2, 3, 3]] * 2 + [[4, 4, 5, 5, 6, 6]] * 2)
    np.testing.assert_array_equal(resize_nearest(grid, (4, 6, 1))[..., 0], expected)


def test_padding_up_to_a_minimum() -> None:
    assert centered_padding((5, 9, 8), (8, 8, 8)) == [(1, 2), (0, 0), (0, 0)]
    assert centered_padding((4, 1, 7), (8, 8, 8)) == [(2, 2), (3, 4), (0, 1)]
