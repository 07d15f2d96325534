"""Sampling and resampling on grids of voxels."""

from __future__ import annotations

import torch

from semisam_o1.data.sampling.fields import indices, rescale, resize, sample

VALUES = torch.arange(24.0).reshape(1, 2, 3, 4)


def test_at_its_own_indices_a_volume_shows_itself() -> None:
    for mode in ("bilinear", "nearest"):
        assert torch.allclose(sample(VALUES, indices(VALUES.shape[1:]), mode), VALUES, atol=1e-5)


def test_between_voxels_values_are_interpolated_and_beyond_the_border_kept_or_0() -> None:
    coords = torch.tensor([[0.5, 0, -3], [1, 1, 1], [2, 2.5, 2]]).reshape(3, 3, 1, 1)
    torch.testing.assert_close(sample(VALUES, coords).flatten(), torch.tensor([12.0, 6.5, 6.0]))
    assert sample(VALUES, coords, outside="zeros").flatten()[2] == 0


def test_rescaled_coords_show_the_same_point_on_another_grid() -> None:
    coarse = resize(indices((8, 6, 4))[:, :, :, :], (4, 3, 2))  # where the coarse voxels' centers lie
    torch.testing.assert_close(rescale(coarse, (8, 6, 4), (4, 3, 2)), indices((4, 3, 2)))
