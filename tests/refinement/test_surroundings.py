"""Prediction around the structures of a volume: what is far from them is background, and nothing near them changes."""

import itertools

import numpy as np
import pytest
import torch

from semisam_o1.evaluation.sliding_window import sliding_window
from semisam_o1.propagation.region import Pose, Region
from semisam_o1.refinement.surroundings import predict_around, sides_around, surroundings

SHAPE = (60, 50, 40)
PATCH = (16, 16, 8)


def region(start, size, axes=(0, 1, 2), flips=(False, False, False), shape=SHAPE) -> Region:
    return Region(Pose((0.0, 0.0, 0.0), 1.0, axes, flips), shape, start, size, size, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_the_box_holds_what_the_region_cuts_out(axes, flips):
    found = region(tuple((30, 20, 10)[axis] for axis in axes), tuple((9, 8, 7)[axis] for axis in axes), axes, flips)
    marked = found.paste(np.ones((1, *found.grid), np.float32), elsewhere=torch.zeros((1, *SHAPE)))[0]
    expected = []
    for axis, side in enumerate(PATCH):
        inside = marked.any(dim=tuple({0, 1, 2} - {axis})).nonzero().flatten()
        expected.append(slice(max(0, int(inside[0]) - side // 2), min(SHAPE[axis], int(inside[-1]) + 1 + side // 2)))
    assert surroundings(found, PATCH) == tuple(expected)


@pytest.mark.parametrize("start", [0, 1, 20, 57, 59])
def test_at_the_border_the_box_is_still_a_window_long(start):
    (along, *_) = surroundings(region((start, 0, 0), (1, 50, 40)), (16, 16, 8))
    assert along.start >= 0 and along.stop <= 60 and along.start <= start < along.stop
    assert along.stop - along.start >= 16
    assert surroundings(region((start, 0, 0), (1, 50, 40)), (100, 16, 8))[0] == slice(0, 60)


def test_the_middle_of_the_region_is_predicted_as_in_the_whole_image():
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(SHAPE, generator=generator)

    def network(windows):  # what it says of a voxel depends on all of its window
        foreground = torch.sigmoid(windows + windows.mean(dim=(2, 3, 4), keepdim=True) - 1)
        return torch.cat([1 - foreground, foreground], dim=1)

    seen = []

    def predict(part):
        seen.append(tuple(part.shape))
        return sliding_window(part, network, PATCH, (4, 4, 4))

    whole, found = predict(image), region((24, 16, 12), (12, 12, 12))
    near = predict_around(image, found, predict, PATCH)
    assert seen[-1] == (28, 28, 20) == sides_around(found.size, SHAPE, PATCH)
    assert near.shape == whole.shape and near.dtype == torch.float32
    # The windows start at multiples of the stride, here as there, and those over the middle are the same.
    middle = (slice(None), slice(28, 32), slice(20, 24), slice(15, 24))
    torch.testing.assert_close(near[middle], whole[middle], rtol=0, atol=1e-6)
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[surroundings(found, PATCH)] = False
    assert (near[0][outside] == 1).all() and (near[1][outside] == 0).all()


def test_a_small_image_is_predicted_as_a_whole_and_at_smaller_sizes_more_of_it():
    image, sizes = torch.zeros(SHAPE), []

    def predict(part):
        sizes.append(tuple(part.shape))
        return torch.zeros((2, *part.shape))

    predict_around(image, region((2, 2, 2), (56, 46, 36)), predict, PATCH)
    predict_around(image, None, predict, PATCH)
    predict_around(image, region((24, 20, 16), (4, 4, 4)), predict, PATCH, zooms=(0.5, 1.0))
    assert sizes == [SHAPE, SHAPE, (36, 36, 20)]
