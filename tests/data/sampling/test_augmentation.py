"""Random changes to patches: bounded, repeatable, the label going with the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semisam_o1.core.seeding import numpy_generator
from semisam_o1.data.sampling.augmentation import (
    Augmentation,
    Donor,
    Warps,
    change_intensity,
    look,
    match_intensity,
    quantiles,
    spatial_places,
)
from semisam_o1.data.sampling.batches import BatchStream
from semisam_o1.data.sampling.fields import indices

SHAPE = (14, 18, 10)


def ramp() -> torch.Tensor:
    return indices(SHAPE).sum(0)


def stream(augmentation: Augmentation, **changes) -> BatchStream:
    volumes = {"template": ramp(), "other": ramp() + 100}
    labels = {name: (volume % 100 > 15).to(torch.uint8) for name, volume in volumes.items()}
    options = {"patch_size": (8, 8, 8), "labeled_bs": 1, "batch_size": 2, "length": 9, "seed": (3,)} | changes
    return BatchStream(
        ["template"], ["other"], volumes.__getitem__, labels.__getitem__, augmentation=augmentation, **options
    )


def donor() -> Donor:
    """A volume of the template's size that shows it two voxels further on."""
    places = indices(SHAPE) + torch.tensor([2.0, 0, 0]).view(3, 1, 1, 1)
    affine = torch.cat([torch.eye(3), torch.zeros(3, 1)], dim=1)
    return Donor(SHAPE, places, affine, quantiles(ramp() * 3))


@pytest.mark.parametrize("kind", ["spatial", "intensity", "template"])
def test_augmented_batches_repeat_and_differ_between_iterations(kind: str) -> None:
    warps = Warps("template", quantiles(ramp()), [donor()]) if kind == "template" else None
    batches = stream(Augmentation(kind == "spatial", kind == "intensity", warps))
    plain = stream(Augmentation())
    assert torch.equal(batches[4].image, batches[4].image)
    changed = [not torch.equal(batches[t].image[0], plain[t].image[0]) for t in range(9)]
    assert sum(changed) >= 5
    if kind == "template":  # the others are as they are
        assert all(torch.equal(batches[t].image[1], plain[t].image[1]) for t in range(9))
    if kind == "intensity":
        assert all(torch.equal(batches[t].label, plain[t].label) for t in range(9))


def test_the_label_goes_where_the_image_goes() -> None:
    label = (ramp() > 20).to(torch.uint8)
    for seed in range(9):
        places = Augmentation(spatial=True).places((5, 6, 3), (4, 5, 4), None, numpy_generator(seed), label.device)
        image, seen = look(ramp(), places, nearest=False), look(label, places, nearest=True)
        sure = (image - 20.5).abs() > 1.6  # elsewhere the nearest voxel may lie beyond
        assert sure.sum() > 0
        assert torch.equal(seen[sure] == 1, image[sure] > 20.5)


def test_weights_go_with_the_labels_and_true_labels_count_in_full() -> None:
    trust = {"other": torch.full(SHAPE, 51, dtype=torch.uint8)}
    for augmentation in (Augmentation(), Augmentation(spatial=True)):
        batch = stream(augmentation, weight=trust.__getitem__, patch_size=(4, 4, 4))[0]
        assert batch.weight.shape == (2, 4, 4, 4)
        assert batch.weight[0].max() == 1
        assert batch.weight[1].max() == pytest.approx(0.2)
    assert stream(Augmentation())[0].weight is None


def test_places_stay_near() -> None:
    places = indices(SHAPE)
    for seed in range(20):
        moved = spatial_places(places, numpy_generator(seed))
        assert moved.shape == places.shape
        assert (moved - places).norm(dim=0).mean() < 0.3 * max(SHAPE)
        middle = tuple(size // 2 for size in SHAPE)
        assert (moved - places)[(slice(None), *middle)].norm() < 2


def test_full_strength_gives_the_donors_places_and_none_the_affine_ones() -> None:
    from semisam_o1.data.sampling.augmentation import Warp, warped_places

    middle = indices(SHAPE)[:, 2:-4, 2:-2, 2:-2]
    shift = [float((warped_places(middle, Warp(donor(), s, 0.0)) - middle)[0].mean()) for s in (0.0, 0.5, 1.0)]
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


def test_labels_are_looked_up_and_images_interpolated() -> None:
    volume = torch.tensor([0, 4, 8], dtype=torch.uint8).reshape(3, 1, 1)
    places = torch.tensor([0.6, 1.4, 7.0]).reshape(1, 3, 1, 1) * torch.tensor([1.0, 0, 0]).view(3, 1, 1, 1)
    assert look(volume, places, nearest=True).flatten().tolist() == [4, 4, 0]
    torch.testing.assert_close(look(volume.float(), places, nearest=False).flatten(), torch.tensor([2.4, 5.6, 0]))
    assert look(None, places, nearest=True) is None
