"""Patches around foreground: every class alike, never beyond the volume where it is larger than the patch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from semisam_o1.core.seeding import numpy_generator
from semisam_o1.data.sampling.augmentation import Augmentation, Donor, Warp, Warps, quantiles
from semisam_o1.data.sampling.batches import BatchSettings, BatchStream
from semisam_o1.data.sampling.fields import indices
from semisam_o1.data.sampling.patches import MAX_VOXELS, ForegroundVoxels, patch_around
from volume_source import Source

SHAPE = (60, 50, 9)


def label() -> torch.Tensor:
    """One voxel of class 2 in a corner, many voxels of class 1."""
    volume = torch.zeros(SHAPE, dtype=torch.uint8)
    volume[20:40, 20:30, 2:7] = 1
    volume[58, 1, 4] = 2
    return volume


def stream(foreground: float, augmentation: Augmentation = Augmentation()) -> BatchStream:
    settings = BatchSettings((16, 16, 16), 1, 2, 60, (5,), augmentation=augmentation, foreground=foreground)
    empty = torch.zeros(SHAPE, dtype=torch.uint8)
    labels = {"template": label(), "other": empty}
    return BatchStream(["template"], ["other"], Source(lambda _: indices(SHAPE).sum(0), labels.get), settings)


def test_classes_are_drawn_equally_often_however_small_they_are() -> None:
    voxels, generator = ForegroundVoxels(lambda _: label()), numpy_generator(1)
    drawn = [tuple(voxels.choose("any", generator.random(2)).tolist()) for _ in range(400)]
    classes = Counter(int(label()[voxel]) for voxel in drawn)
    assert set(classes) == {1, 2}
    assert min(classes.values()) > 150
    assert len(set(drawn)) > 100


def test_a_volume_without_foreground_has_no_voxel_to_draw() -> None:
    assert ForegroundVoxels(lambda _: torch.zeros(3, 4, 5, dtype=torch.uint8)).choose("any", (0.5, 0.5)) is None


def test_large_classes_are_represented_over_their_whole_extent() -> None:
    voxels = ForegroundVoxels(lambda _: torch.ones(40, 40, 40, dtype=torch.uint8))
    drawn = np.stack([voxels.choose("any", numpy_generator(i).random(2)) for i in range(300)])
    assert len(voxels._by_name["any"][0].coords) <= MAX_VOXELS
    assert (drawn.min(0) < 5).all()
    assert (drawn.max(0) > 34).all()


def test_patches_are_centered_within_the_volume_and_slide_where_it_is_not_larger() -> None:
    first = patch_around(np.array([58, 1, 4]), SHAPE, (16, 16, 16), (3, 3, -6))
    last = patch_around(np.array([30.2, 24.7, 4]), SHAPE, (16, 16, 16), (3, 3, -1))
    assert first == (44, 0, -6)
    assert last == (22, 17, -1)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_patches_that_show_foreground(share: float) -> None:
    batches = [stream(share)[t] for t in range(60)]
    small = sum(bool((batch.label[0] == 2).any()) for batch in batches)
    shown = sum(bool(batch.label[0].any()) for batch in batches)
    assert shown >= 60 * share
    assert abs(small - 30 * share) <= 10
    assert all(torch.equal(batch.image, stream(share)[t].image) for t, batch in enumerate(batches[:5]))


def test_without_a_share_patches_are_where_they_were() -> None:
    settings = replace(stream(0.0).settings, foreground=1.0)
    without, source = stream(0.0), stream(0.0).source
    changed = BatchStream(["template"], ["other"], source, settings)
    assert torch.equal(without[3].image[1], changed[3].image[1])  # without foreground, too
    assert not torch.equal(without[3].image[0], changed[3].image[0])


def test_patches_of_a_warped_template_are_centered_where_the_donor_shows_it() -> None:
    shift = torch.tensor([5.0, -3.0, 0.0])
    affine = torch.cat([torch.eye(3), shift[:, None]], dim=1)
    donor = Donor(SHAPE, indices(SHAPE) + shift.view(3, 1, 1, 1), affine, quantiles(indices(SHAPE)))
    assert np.allclose(Warp(donor, 1.0, 0.0).donor_voxel(np.array([30, 20, 4])), [25, 23, 4], atol=1e-4)
    warped = stream(1.0, Augmentation(warps=Warps("template", quantiles(indices(SHAPE)), [donor])))
    assert all(warped[t].label[0].any() for t in range(20))
