"""Random changes to patches: bounded, repeatable, the label going with the image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from semisam_o1.core.seeding import numpy_generator
from semisam_o1.data.sampling.augmentation import (
    Augmentation,
    Donor,
    Warp,
    Warps,
    change_intensity,
    deform,
    deformed_bounds,
    draw_deformation,
    match_intensity,
    quantiles,
    resample_at,
    warp_coords,
)
from semisam_o1.data.sampling.batches import BatchSettings, BatchStream
from semisam_o1.data.sampling.fields import indices
from semisam_o1.data.sampling.patches import crop
from volume_source import Source

SHAPE = (14, 18, 10)
EMPTY: Mapping[str, Tensor] = {}


def ramp() -> torch.Tensor:
    return indices(SHAPE).sum(0)


def stream(
    augmentation: Augmentation, patch_size: tuple[int, int, int] = (8, 8, 8), weights: Mapping[str, Tensor] = EMPTY
) -> BatchStream:
    volumes = {"template": ramp(), "other": ramp() + 100}
    labels = {name: (volume % 100 > 15).to(torch.uint8) for name, volume in volumes.items()}
    settings = BatchSettings(patch_size, 1, 2, length=9, seed=(3,), augmentation=augmentation)
    return BatchStream(["template"], ["other"], Source(volumes.get, labels.get, weights.get), settings)


def donor() -> Donor:
    """A volume of the template's size that shows it two voxels further on."""
    coords = indices(SHAPE) + torch.tensor([2.0, 0, 0]).view(3, 1, 1, 1)
    affine = torch.cat([torch.eye(3), torch.zeros(3, 1)], dim=1)
    return Donor(SHAPE, coords, affine, quantiles(ramp() * 3))


def deformation(coords: Tensor, seed: int) -> Tensor:
    return torch.from_numpy(draw_deformation(coords.shape[1:], numpy_generator(seed)))


@pytest.mark.parametrize("kind", ["spatial", "intensity", "template", "local"])
def test_augmented_batches_repeat_and_differ_between_iterations(kind: str) -> None:
    warps = Warps("template", quantiles(ramp()), [donor()]) if kind == "template" else None
    batches = stream(Augmentation(kind == "spatial", kind == "intensity", warps, kind == "local"))
    plain = stream(Augmentation())
    assert torch.equal(batches[4].image, batches[4].image)
    changed = [not torch.equal(batches[t].image[0], plain[t].image[0]) for t in range(9)]
    assert sum(changed) >= (2 if kind == "local" else 5)
    if kind == "template":  # the others are as they are
        assert all(torch.equal(batches[t].image[1], plain[t].image[1]) for t in range(9))
    if kind == "intensity":
        assert all(torch.equal(batches[t].label, plain[t].label) for t in range(9))


def test_the_label_goes_where_the_image_goes() -> None:
    label = (ramp() > 20).to(torch.uint8)
    for seed in range(9):
        coords = indices((4, 5, 4)) + torch.tensor((5, 6, 3)).view(3, 1, 1, 1)
        coords = deform(coords, deformation(coords, seed))
        image, seen = resample_at(ramp(), coords, nearest=False), resample_at(label, coords, nearest=True)
        sure = (image - 20.5).abs() > 1.6  # elsewhere the nearest voxel may lie beyond
        assert sure.sum() > 0
        assert torch.equal(seen[sure] == 1, image[sure] > 20.5)


def test_weights_go_with_the_labels() -> None:
    weights = {name: torch.full(SHAPE, value, dtype=torch.uint8) for name, value in (("template", 255), ("other", 51))}
    for augmentation in (Augmentation(), Augmentation(spatial=True)):
        batch = stream(augmentation, (4, 4, 4), weights)[0]
        assert batch.weight.shape == (2, 4, 4, 4)
        assert batch.weight[0].max() == 1
        assert batch.weight[1].max() == pytest.approx(0.2)
    assert stream(Augmentation())[0].weight is None


def test_deformations_are_small() -> None:
    coords = indices(SHAPE)
    for seed in range(20):
        moved = deform(coords, deformation(coords, seed))
        assert moved.shape == coords.shape
        assert (moved - coords).norm(dim=0).mean() < 0.3 * max(SHAPE)
        middle = tuple(size // 2 for size in SHAPE)
        assert (moved - coords)[(slice(None), *middle)].norm() < 2


@pytest.mark.parametrize("start", [(2, 3, 1), (-3, 12, 4), (-20, 3, 1), (8, 30, 9)])
def test_a_patch_is_sampled_from_the_box_of_its_bounds(start: tuple[int, int, int]) -> None:
    size, volume = (7, 6, 5), torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) + 1
    for seed in range(10):
        drawn = draw_deformation(size, numpy_generator(seed))
        coords = deform(indices(size, start=start), torch.from_numpy(drawn))
        low, high = deformed_bounds(start, size, drawn)
        assert (coords.amin(dim=(1, 2, 3)).numpy() >= low - 1e-4).all()
        assert (coords.amax(dim=(1, 2, 3)).numpy() <= high + 1e-4).all()
        box, corner = crop(volume, low, high)
        within = deform(indices(size, start=np.subtract(start, corner)), torch.from_numpy(drawn))
        found, wanted = (resample_at(v, c, nearest=False) for v, c in ((box, within), (volume, coords)))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_full_strength_gives_the_donors_shape_and_none_the_affine_map() -> None:
    middle = indices(SHAPE)[:, 2:-4, 2:-2, 2:-2]
    shift = [float((warp_coords(middle, Warp(donor(), s, 0.0)) - middle)[0].mean()) for s in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(shift, [0, 1, 2], atol=1e-4)


def test_intensities_are_brought_to_the_donors() -> None:
    image, other = ramp(), ramp() * 3 + 7
    matched = match_intensity(image, quantiles(image), quantiles(other), 1.0)
    torch.testing.assert_close(matched, other, atol=0.6, rtol=0)
    torch.testing.assert_close(match_intensity(image, quantiles(image), quantiles(other), 0.0), image)
    flat = torch.ones(4, 4, 4)
    assert torch.isfinite(match_intensity(flat, quantiles(flat), quantiles(other), 0.7)).all()


def test_changed_intensities_keep_their_order_of_magnitude() -> None:
    image = ramp() / 10 - 1
    for seed in range(20):
        changed = change_intensity(image, numpy_generator(seed))
        assert torch.isfinite(changed).all()
        assert abs(float(changed.mean() - image.mean())) < 1.5 * float(image.std())
        assert 0.4 < float(changed.std() / image.std()) < 1.8
    assert torch.isfinite(change_intensity(torch.zeros(4, 4, 4), numpy_generator(0))).all()


def test_labels_are_resampled_nearest_and_images_linearly() -> None:
    volume = torch.tensor([0, 4, 8], dtype=torch.uint8).reshape(3, 1, 1)
    coords = torch.tensor([0.6, 1.4, 7.0]).reshape(1, 3, 1, 1) * torch.tensor([1.0, 0, 0]).view(3, 1, 1, 1)
    assert resample_at(volume, coords, nearest=True).flatten().tolist() == [4, 4, 0]
    torch.testing.assert_close(
        resample_at(volume.float(), coords, nearest=False).flatten(), torch.tensor([2.4, 5.6, 0])
    )


def test_rotations_keep_lengths_in_millimeters() -> None:
    size, spacing = (32, 32, 8), (1.0, 1.0, 8.0)
    for seed in range(5):
        matrices = [draw_deformation(size, numpy_generator(seed), s)[:9].reshape(3, 3) for s in (spacing, (1, 1, 1))]
        in_mm = np.diag(spacing) @ matrices[0] @ np.diag(1 / np.array(spacing))
        assert np.allclose(in_mm, matrices[1], atol=1e-5)
        assert np.abs(matrices[0][2, :2]).max() < 0.04  # slices that a voxel in the plane moves: sin(12°) / 8, zoomed
