"""The structures are found wherever they lie, however the volume is turned."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from balls import dice, scan
from semisam_o1.propagation.atlas import AtlasPropagation, Template
from semisam_o1.propagation.locating import orientations
from semisam_o1.propagation.region import MAX_CELLS, Pose, structures

CUBE = (1.0, 1.0, 1.0)
LARGE = (34, 36, 30)


def predict(image: np.ndarray, template: tuple[np.ndarray, np.ndarray], spacing: tuple[float, float, float] = CUBE):
    propagation = AtlasPropagation([Template(*template, None, CUBE)], 3)
    return propagation.find(image, spacing), propagation.label(image, spacing).label


def test_a_structure_far_from_the_middle_is_found() -> None:
    """The scan continues on one side of each axis, with its mirror image and noise."""
    image, label = scan(seed=1)
    margins = [(24, 0), (0, 26), (18, 2)]
    whole = np.pad(image, margins, mode="symmetric")
    outside = np.pad(np.zeros(image.shape, bool), margins, constant_values=True)
    whole[outside] = 0.3 * whole[outside] + 0.5 * np.random.default_rng(2).normal(size=outside.sum())
    _, predicted = predict(whole.astype(np.float32), scan())
    truth = np.pad(label, margins)
    assert min(dice(predicted, truth, 1), dice(predicted, truth, 2)) > 0.8


@pytest.mark.parametrize("axes, flips", [((1, 0, 2), (True, False, False)), ((2, 0, 1), (False, True, True))])
def test_a_turned_scan_is_found(axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    template = scan(LARGE)
    pose = Pose((0.0, 0.0, 0.0), 1.0, axes, flips)
    image, label = (np.ascontiguousarray(pose.restore(array)) for array in template)
    image = image + 0.05 * np.random.default_rng(1).normal(size=image.shape).astype(np.float32)
    region, predicted = predict(image, template)
    assert (region.pose.axes, region.pose.flips) == (axes, flips)
    assert min(dice(predicted, label, 1), dice(predicted, label, 2)) > 0.9


def test_the_own_orientation_is_kept_where_no_other_one_is_clearly_better() -> None:
    region, _ = predict(scan(seed=3)[0], scan())
    assert not region.pose.turned


def test_thick_slices_stay_slices() -> None:
    found = list(orientations((1.5, 1.5, 10.0)))
    assert len(found) == 15
    assert all(pose.axes[2] == 2 for pose in found)
    assert len(list(orientations(CUBE))) == 47


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_regions_lead_back_to_the_volume(axes: tuple[int, ...]) -> None:
    label = scan((17, 21, 13))[1]
    for flips in product((False, True), repeat=3):
        pose = Pose((0.0, 0.0, 0.0), 1.0, axes, flips)
        turned = np.ascontiguousarray(pose.reorient(label))
        np.testing.assert_array_equal(pose.restore(turned), label)
        own = structures(turned, CUBE)
        region = own.region(label.shape, CUBE, Pose(own.center, 1.0, axes, flips))
        cells = np.stack([region.reduce(label == c) for c in range(3)])
        np.testing.assert_array_equal(region.paste(cells).argmax(0), label)
        x, y, z = region.voxel_coords().round().astype(int)
        np.testing.assert_array_equal(label[x, y, z], cells.argmax(0))


def test_a_small_structure_in_a_large_scan_has_no_fine_grid_all_over_it() -> None:
    shape = (330, 300, 220)
    region = structures(scan()[1], CUBE).region(shape, CUBE, Pose((40.0, 150.0, 100.0)))
    coords = region.cell_coords()
    cells = np.array(coords.shape[1:])
    assert 0.9 * MAX_CELLS < cells.prod() < 1.1 * MAX_CELLS
    np.testing.assert_allclose(cells / cells[0], np.array(shape) / shape[0], rtol=0.03)
    for axis in range(3):
        line = np.moveaxis(coords[axis], axis, 0)[:, 0, 0]
        voxels = (line + 0.5) * region.size[axis] / region.grid[axis] + region.start[axis] - 0.5
        np.testing.assert_allclose(voxels, (np.arange(cells[axis]) + 0.5) * shape[axis] / cells[axis] - 0.5, atol=1e-3)
