"""Prediction of a volume around its structures alone: fusion takes nothing of a network from farther away."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from semisam_o1.propagation.region import Region


def predict_around(
    image: Tensor,
    region: Region | None,
    predict: Callable[[Tensor], Tensor],
    patch_size: Sequence[int],
    zooms: Sequence[float] = (1.0,),
) -> Tensor:
    """Return class probabilities (C, W, H, D) of an image (W, H, D): background far from the region.

    Args:
        region: None for the whole image.
        predict: image (w, h, d) → class probabilities (C, w, h, d).
        patch_size, zooms: windows that it predicts, and the sizes of the image that it does so at.
    """
    if region is None:
        return predict(image)
    box = surroundings(region, _window(patch_size, zooms))
    inside = predict(image[box])
    if inside.shape[1:] == image.shape:
        return inside
    try:
        whole = inside.new_zeros((len(inside), *image.shape))
    except torch.cuda.OutOfMemoryError:
        whole, inside = torch.zeros((len(inside), *image.shape)), inside.cpu()
    whole[0] = 1
    whole[(slice(None), *box)] = inside
    return whole


def surroundings(region: Region, window: Sequence[int]) -> tuple[slice, ...]:
    """Return the box of a region and half a window around it, at least a window long where the volume is.

    The slices are in the order of the volume's axes. Every voxel of the region can be the center of a window.
    """
    box = [slice(0, 0)] * 3
    for i, axis in enumerate(region.pose.axes):
        length, side = region.shape[axis], window[axis]
        start, stop = region.start[i], region.start[i] + region.size[i]
        if region.pose.flips[i]:
            start, stop = length - stop, length - start
        start, stop = max(0, start - side // 2), min(length, stop + side // 2)
        start = max(0, min(start, stop - side))
        box[axis] = slice(start, min(length, max(stop, start + side)))
    return tuple(box)


def sides_around(
    size: Sequence[int], shape: Sequence[int], patch_size: Sequence[int], zooms: Sequence[float] = (1.0,)
) -> tuple[int, ...]:
    """Return the sides of the ``surroundings`` of a region of a size that is not near the border of its volume."""
    window = _window(patch_size, zooms)
    return tuple(min(n, side + 2 * (w // 2)) for side, n, w in zip(size, shape, window, strict=True))


def _window(patch_size: Sequence[int], zooms: Sequence[float]) -> tuple[int, ...]:
    """Return how many voxels of a volume a network sees at a time, where it is predicted at its smallest size."""
    return tuple(math.ceil(side / min(zooms)) for side in patch_size)
