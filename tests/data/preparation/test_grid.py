"""Grids: turned, resampled, cropped, and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from directions import turned
from semisam_o1.data.dataset.volumes import Geometry, Grid
from semisam_o1.data.preparation.grid import (
    cropped,
    is_orientation,
    orientation_of,
    reoriented,
    resample,
    resample_label,
    resampled,
)

ORIENTATIONS = ("RAS", "LPS", "SAR", "PIR", "LIA")


def make_grid(size: tuple[int, int, int] = (5, 6, 7), direction: np.ndarray | None = None) -> Grid:
    direction = np.eye(3) if direction is None else direction
    return Grid(size, Geometry((0.5, 1.0, 2.5), (3.0, -4.0, 5.0), tuple(direction.ravel().tolist()), known=True))


def as_image(array: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(grid.geometry.spacing)
    image.SetOrigin(grid.geometry.origin)
    image.SetDirection(grid.geometry.direction)
    return image


def test_orientation_names_where_the_axes_point() -> None:
    assert orientation_of(make_grid().geometry) == "LPS"
    assert orientation_of(make_grid(direction=np.diag([-1.0, -1.0, 1.0])).geometry) == "RAS"
    assert orientation_of(make_grid(direction=np.eye(3)[[2, 0, 1]]).geometry) == "PSL"
    assert orientation_of(make_grid(direction=turned()).geometry) == "LPS"
    assert is_orientation("SAR")
    assert not any(is_orientation(text) for text in ("RAR", "XYZ", "RA", "ras"))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    "direction", [np.eye(3), turned(), np.diag([1.0, -1.0, 1.0])], ids=["axial", "oblique", "flip"]
)
def test_turning_moves_no_voxel_in_the_patient(orientation: str, direction: np.ndarray) -> None:
    grid = make_grid(direction=direction)
    array = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    target = reoriented(grid, orientation)
    assert orientation_of(target.geometry) == orientation
    turned = resample(array, grid, target)
    assert turned.dtype == array.dtype
    before, after = as_image(array, grid), as_image(turned, target)
    for index in itertools.product((0, 4), (0, 5), (0, 3, 6)):
        place = before.TransformIndexToPhysicalPoint(index)
        assert after[after.TransformPhysicalPointToIndex(place)] == before[index]
    np.testing.assert_array_equal(resample(turned, target, grid), array)


def test_resampling_agrees_with_simpleitk_where_both_interpolate() -> None:
    grid = make_grid((12, 14, 9), turned())
    array = np.random.default_rng(0).random(grid.size).astype(np.float32)
    target = resampled(grid, (0.4, 0.7, 2.0))
    assert target.size == (15, 20, 11)
    reference = sitk.Resample(
        as_image(array, grid), target.size, sitk.Transform(), sitk.sitkLinear, target.geometry.origin,
        target.geometry.spacing, target.geometry.direction,
    )  # fmt: skip
    expected = sitk.GetArrayFromImage(reference).T
    np.testing.assert_allclose(resample(array, grid, target)[1:-1, 1:-1, 1:-1], expected[1:-1, 1:-1, 1:-1], atol=1e-4)


def test_coarser_voxels_take_the_mean_of_what_they_cover() -> None:
    grid = Grid((8, 4, 4), Geometry(known=True))
    array = np.zeros(grid.size, np.float32)
    array[::2] = 1  # a pattern too fine for the new grid
    coarse = resample(array, grid, resampled(grid, (2, 2, 2)))
    assert coarse.shape == (4, 2, 2)
    np.testing.assert_allclose(coarse[1:-1], 0.5)
    smooth = np.full(grid.size, 3.0, np.float32)
    np.testing.assert_allclose(resample(smooth, grid, resampled(grid, (3, 3, 3))), 3.0, rtol=1e-6)


@pytest.mark.parametrize("nearest", [False, True])
def test_label_keeps_place_and_volume_there_and_back(nearest: bool) -> None:
    grid = make_grid((40, 30, 16), turned())
    x, y, z = np.indices(grid.size)
    label = np.zeros(grid.size, np.uint8)
    label[((x - 18) / 9) ** 2 + ((y - 13) / 6) ** 2 + ((z - 8) / 3.5) ** 2 < 1] = 4
    label[((x - 30) / 5) ** 2 + ((y - 20) / 5) ** 2 + ((z - 8) / 3) ** 2 < 1] = 2
    target = resampled(reoriented(grid, "RAS"), (1.0, 1.0, 2.0))
    there = resample_label(label, grid, target, nearest=nearest)
    back = resample_label(there, target, grid, nearest=nearest)
    assert back.dtype == np.uint8
    for value in (2, 4):
        truth, found = label == value, back == value
        assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.85
        shift = np.argwhere(truth).mean(axis=0) - np.argwhere(found).mean(axis=0)
        assert np.abs(shift).max() < (0.6 if nearest else 0.25)
    assert set(np.unique(there)) == {0, 2, 4}


def test_cropping_keeps_places_and_the_way_back_fills_with_background() -> None:
    grid = make_grid()
    label = np.ones(grid.size, np.uint8)
    part = cropped(grid, (slice(1, 4), slice(0, 6), slice(2, 7)))
    inside = resample(label, grid, part)
    assert inside.shape == (3, 6, 5)
    back = resample_label(inside, part, grid)
    expected = np.zeros(grid.size, np.uint8)
    expected[1:4, :, 2:7] = 1
    np.testing.assert_array_equal(back, expected)
    probabilities = resample(np.ones((2, 3, 6, 5), np.float32), part, grid, outside=0.25)
    np.testing.assert_array_equal(probabilities[:, 0], 0.25)


def test_a_slice_thick_volume_and_grids_that_do_not_fit() -> None:
    thin = Grid((4, 4, 1), Geometry(known=True))
    array = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    np.testing.assert_array_equal(resample(array, thin, resampled(thin, (1, 1, 0.5)))[..., 0], array[..., 0])
    with pytest.raises(ValueError, match="rotated"):
        resample(np.zeros((5, 6, 7)), make_grid(), make_grid(direction=turned()))
    with pytest.raises(ValueError, match="does not lie on"):
        resample(np.zeros((4, 6, 7)), make_grid(), make_grid())
