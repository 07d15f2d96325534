"""Deformable registration on volumes whose deformation is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from semisam_o1.data.sampling.fields import indices, sample
from semisam_o1.propagation.registration import box_mean, descend, register, search, self_similarity

SHAPE = (24, 28, 20)


def texture(seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    return torch.from_numpy(ndimage.gaussian_filter(noise, 1.5).astype(np.float32)) * 10


def bend() -> torch.Tensor:
    """A smooth displacement of at most 2.5 voxels."""
    x, y, z = indices(SHAPE)
    return torch.stack([2.5 * torch.sin(y / 6), 2 * torch.cos(z / 7), 1.5 * torch.sin(x / 8)])


@pytest.mark.parametrize("sampling", [1, 2])
def test_a_known_deformation_is_found(sampling: int) -> None:
    moving = self_similarity(texture())
    places = indices(SHAPE) + bend()
    fixed = self_similarity(sample(texture()[None], places)[0])
    found = register(fixed, moving, indices(SHAPE), sampling)
    inner = (slice(None), *[slice(4, -4)] * 3)
    before = bend()[inner].norm(dim=0).mean()
    after = (found - places)[inner].norm(dim=0).mean()
    assert after < 0.25 * before


def test_the_search_finds_a_shift_and_the_descent_stays_where_nothing_is_to_be_gained() -> None:
    description = self_similarity(texture())
    shift = search(torch.roll(description, (-3, 2, 0), (1, 2, 3)), description, cell=2)
    inner = shift[:, 3:-3, 3:-3, 3:-3].mean(dim=(1, 2, 3))
    np.testing.assert_allclose(inner, [3, -2, 0], atol=0.3)
    stayed = descend(description, description, indices(SHAPE), sampling=1)
    assert (stayed - indices(SHAPE)).abs().max() < 0.2


def test_self_similarity_ignores_brightness_and_contrast() -> None:
    image = texture()
    described = self_similarity(image)
    assert described.shape == (12, *SHAPE)
    assert described.min() >= 0
    assert described.max() <= 1
    np.testing.assert_allclose(self_similarity(-40 * image + 7), described, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 1, 3)])
def test_volumes_without_contrast_stay_where_they_are(shape: tuple[int, int, int]) -> None:
    flat = self_similarity(torch.zeros(shape))
    found = register(flat, flat, indices(shape), 2)
    np.testing.assert_allclose(found, indices(shape), atol=1e-4)


def test_registration_repeats() -> None:
    fixed, moving = self_similarity(texture(1)), self_similarity(texture(2))
    assert torch.equal(register(fixed, moving, indices(SHAPE)), register(fixed, moving, indices(SHAPE)))


def test_box_mean_is_the_mean_of_the_cube_around_a_voxel() -> None:
    values = torch.arange(125.0).reshape(1, 5, 5, 5)
    assert box_mean(values)[0, 2, 2, 2] == values[0, 1:4, 1:4, 1:4].mean()
    assert box_mean(values, 5)[0, 2, 2, 2] == values.mean()
