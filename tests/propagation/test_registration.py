"""Deformable registration on volumes whose deformation is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from semisam_o1.data.sampling.fields import indices, sample
from semisam_o1.propagation.registration import Channels, box_mean, displaced, refine, register, search, self_similarity

SHAPE = (24, 28, 20)


def texture(seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    return torch.from_numpy(ndimage.gaussian_filter(noise, 1.5).astype(np.float32)) * 10


def bend() -> torch.Tensor:
    """A smooth displacement of at most 2.5 voxels."""
    x, y, z = indices(SHAPE)
    return torch.stack([2.5 * torch.sin(y / 6), 2 * torch.cos(z / 7), 1.5 * torch.sin(x / 8)])


@pytest.mark.parametrize("thickness", [1, 4])
def test_a_known_deformation_is_found(thickness: int) -> None:
    """Of whole volumes, and of their every fourth slice, whose voxels are four times as long."""
    places, slices, step = indices(SHAPE) + bend(), slice(None, None, thickness), (1.0, 1.0, float(thickness))
    if thickness > 1:
        places[2] = indices(SHAPE)[2]  # within slices only
    images = (texture(), sample(texture()[None], places)[0])
    moving, fixed = (Channels(self_similarity(image[..., slices], step), step) for image in images)
    start = indices(fixed.values.shape[1:])
    truth = (places - indices(SHAPE))[..., slices]
    found = register(fixed, moving, start)
    inner = (slice(None), slice(4, -4), slice(4, -4))
    before = truth[inner].norm(dim=0).mean()
    after = (found - truth)[inner].norm(dim=0).mean()
    assert after < (0.4 if thickness == 1 else 0.5) * before


def test_the_search_finds_a_shift_and_the_refinement_stays_where_nothing_is_to_be_gained() -> None:
    description = self_similarity(texture())
    shift = search(Channels(torch.roll(description, (-3, 2, 0), (1, 2, 3))), description)
    inner = shift[:, 3:-3, 3:-3, 3:-3].mean(dim=(1, 2, 3))
    np.testing.assert_allclose(inner, [3, -2, 0], atol=0.3)
    same = Channels(description)
    np.testing.assert_allclose(refine(same, same, indices(SHAPE)), indices(SHAPE), atol=1e-4)
    assert register(same, same, indices(SHAPE))[:, 3:-3, 3:-3, 3:-3].abs().max() < 0.1


def test_displacements_are_lengths() -> None:
    """A step of four units to the next slice moves a voxel by one slice."""
    moved = displaced(indices((2, 2, 2)), torch.full((3, 2, 2, 2), 4.0), (1.0, 2.0, 4.0))
    np.testing.assert_array_equal(moved[:, 0, 0, 0], [4, 2, 1])


def test_self_similarity_ignores_brightness_and_contrast() -> None:
    image = texture()
    described = self_similarity(image)
    assert described.shape == (12, *SHAPE)
    assert described.min() >= 0
    assert described.max() <= 1
    np.testing.assert_allclose(self_similarity(-40 * image + 7), described, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 1, 3)])
def test_volumes_without_contrast_stay_where_they_are(shape: tuple[int, int, int]) -> None:
    flat = Channels(self_similarity(torch.zeros(shape)))
    np.testing.assert_allclose(register(flat, flat, indices(shape)), 0, atol=1e-4)


def test_registration_repeats() -> None:
    fixed, moving = Channels(self_similarity(texture(1))), Channels(self_similarity(texture(2)))
    assert torch.equal(register(fixed, moving, indices(SHAPE)), register(fixed, moving, indices(SHAPE)))


def test_box_mean_is_the_mean_of_the_cube_around_a_voxel() -> None:
    values = torch.arange(125.0).reshape(1, 5, 5, 5)
    assert box_mean(values)[0, 2, 2, 2] == values[0, 1:4, 1:4, 1:4].mean()
    assert box_mean(values, 5)[0, 2, 2, 2] == values.mean()
    assert box_mean(values, 3, (1.0, 1.0, 6.0))[0, 2, 2, 2] == values[0, 1:4, 1:4, 2].mean()  # slices are too far
