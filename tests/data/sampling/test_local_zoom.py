"""Structures grow and shrink smoothly, in millimeters, and never fold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semisam_o1.core.seeding import numpy_generator
from semisam_o1.data.sampling.augmentation import resample_at
from semisam_o1.data.sampling.fields import indices
from semisam_o1.data.sampling.local_zoom import LocalZoom, Structure, draw_local_zoom
from semisam_o1.data.sampling.patches import ForegroundVoxels, crop

SHAPE, CENTER = (28, 26, 12), np.array([14.0, 12.0, 6.0])
BALL = ((indices(SHAPE) - torch.tensor(CENTER).view(3, 1, 1, 1)).square().sum(0) < 25).to(torch.uint8)
SPACING = (1.0, 1.0, 4.0)


def drawn(count: int = 200) -> list[LocalZoom | None]:
    structure = Structure(CENTER, CENTER + np.array((3, 0, 1)), 300)
    return [draw_local_zoom(structure, SPACING, numpy_generator(seed)) for seed in range(count)]


def test_half_of_the_items_are_zoomed_in_millimeters_and_each_differently() -> None:
    zooms = [zoom for zoom in drawn() if zoom]
    assert 80 < len(zooms) < 120
    assert len({float(zoom.excess[0]) for zoom in zooms}) == len(zooms)
    for zoom in zooms:
        np.testing.assert_allclose(zoom.radius[:2], zoom.radius[2] * 4)
        assert np.ptp(zoom.excess) > 0
        assert (np.abs(zoom.excess - 0.25) < 0.8).all()
        share = (zoom.center - CENTER)[0] / 3
        assert 0 <= share <= 1
        np.testing.assert_allclose(zoom.center, CENTER + share * np.array((3, 0, 1)))


@pytest.mark.parametrize("excess", [1.0, -0.5])
def test_a_structure_shrinks_or_grows_and_the_rim_stays(excess: float) -> None:
    zoom = LocalZoom(CENTER, np.array([5.0, 5.0, 5.0]), np.full(3, excess))
    coords = zoom(indices(SHAPE))
    seen = resample_at(BALL, coords, nearest=True)
    ratio = int(seen.sum()) / int(BALL.sum())
    assert ratio < 0.5 if excess > 0 else ratio > 1.5
    moved = (coords - indices(SHAPE)).norm(dim=0)
    assert moved[0, 0, 0] < 0.2
    assert moved[tuple(CENTER.astype(int))] == 0


@pytest.mark.parametrize("excess", [1.02, -0.51])
def test_nothing_folds(excess: float) -> None:
    line = torch.zeros(3, 400, 1, 1)
    line[0, :, 0, 0] = torch.linspace(0, 40, 400)
    zoom = LocalZoom(np.array([20.0, 0.0, 0.0]), np.array([4.0, 4.0, 4.0]), np.full(3, excess))
    assert (zoom(line)[0, :, 0, 0].diff() > 0).all()


def test_a_patch_is_sampled_from_the_box_of_its_reach() -> None:
    size, start = (9, 8, 5), np.array([7, 8, 3])
    volume = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    for zoom in (zoom for zoom in drawn(60) if zoom):
        coords = zoom(indices(size, start=tuple(start)))
        low, high = start - zoom.reach, start + size - 1 + zoom.reach
        assert (coords.amin(dim=(1, 2, 3)).numpy() >= low - 1e-4).all()
        assert (coords.amax(dim=(1, 2, 3)).numpy() <= high + 1e-4).all()
        box, corner = crop(volume, low, high)
        within = zoom.seen_from(np.array(corner))(indices(size, start=tuple(start - corner)))
        found, wanted = (resample_at(v, c, nearest=False) for v, c in ((box, within), (volume, coords)))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_a_structure_is_the_class_of_the_chosen_voxel() -> None:
    label = BALL.clone()
    label[:4] = 2
    voxels = ForegroundVoxels(lambda _: label)
    ball, slab = (voxels.structure("any", (choice, 0.5)) for choice in (0.1, 0.9))
    np.testing.assert_allclose(ball.center, CENTER, atol=0.1)
    np.testing.assert_allclose(slab.center, [1.5, 12.5, 5.5])
    assert (ball.voxels, slab.voxels) == (int(BALL.sum()), 4 * 26 * 12)
    assert label[tuple(ball.voxel)] == 1 and label[tuple(slab.voxel)] == 2
