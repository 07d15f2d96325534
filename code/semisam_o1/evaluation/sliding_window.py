"""Sliding-window inference, and a network applied to whole volumes by it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semisam_o1.core.device import OutOfMemorySafeBatcher, autocast
from semisam_o1.data.dataset.geometry import centered_padding
from semisam_o1.evaluation.decision import shifted
from semisam_o1.networks.unet3d import UNet3D


def window_starts(size: int, patch: int, stride: int) -> list[int]:
    """Return the first index of every window of one axis: multiples of the stride, the last window ends flush."""
    return [*range(0, size - patch, stride), size - patch]


@torch.no_grad()
def sliding_window(
    volume: Tensor | np.ndarray,
    predict: Callable[[Tensor], Tensor],
    patch_size: int | Sequence[int],
    stride: int | Sequence[int],
) -> Tensor | np.ndarray:
    """Average the class probabilities of overlapping windows.

    Several windows are predicted at once, fewer where the GPU's memory is short. The result is held on the device of
    the predictions or, where it does not fit, on the host.

    Args:
        volume: (W, H, D), of any size; an axis shorter than the patch is padded symmetrically with zeros.
        predict: takes windows (B, 1, w, h, d) float32 on the volume's device, returns probabilities (B, C, w, h, d);
            the result of a window must not depend on the others.
        patch_size: size of a window in voxels, one number or one per axis.
        stride: voxels between windows, one number or one per axis, at most the patch.

    Returns:
        Probabilities (C, W, H, D) float32: a tensor, an array if ``volume`` is one.

    Raises:
        ValueError: if the volume is not 3-D, or a stride is below 1 or beyond the patch.
    """
    patch, steps = _per_axis(patch_size), _per_axis(stride)
    image = torch.as_tensor(volume)
    if image.ndim != 3:
        raise ValueError(f"volume must be (W, H, D), its shape is {tuple(image.shape)}")
    if any(not 1 <= s <= p for s, p in zip(steps, patch, strict=True)):
        raise ValueError(f"stride must lie between 1 and the patch {patch}, it is {steps}")
    image = image.float()
    padding = centered_padding(image.shape, patch)
    if any(front or back for front, back in padding):
        image = F.pad(image, [n for pair in reversed(padding) for n in pair])
    starts = [window_starts(n, p, s) for n, p, s in zip(image.shape, patch, steps, strict=True)]
    total = _sum_of_windows(image, predict, starts, patch)
    for axis, axis_starts in enumerate(starts):  # windows over a voxel: the product of the counts of its indices
        count = torch.from_numpy(np.bincount(np.add.outer(axis_starts, range(patch[axis])).ravel()))
        total /= count.to(total.device).view(-1, *(1,) * (2 - axis))
    total = total[(slice(None), *(slice(a, n - b) for (a, b), n in zip(padding, image.shape, strict=True)))]
    return total.cpu().numpy() if isinstance(volume, np.ndarray) else total


def _sum_of_windows(
    image: Tensor, predict: Callable[[Tensor], Tensor], starts: Sequence[Sequence[int]], patch: Sequence[int]
) -> Tensor:
    """Return the summed probabilities (C, W, H, D) of all windows of an image (W, H, D)."""
    boxes = [tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True)) for start in itertools.product(*starts)]
    total, batcher = None, OutOfMemorySafeBatcher()
    for box, window in zip(boxes, batcher(predict, [image[box][None, None] for box in boxes]), strict=True):
        if total is None:
            shape = (window.shape[1], *image.shape)
            try:
                total = torch.zeros(shape, dtype=torch.float32, device=window.device)
            except torch.cuda.OutOfMemoryError:
                total = torch.zeros(shape, dtype=torch.float32)
        total[(slice(None), *box)] += window[0].to(total.device)
    return total


def _per_axis(value: int | Sequence[int]) -> tuple[int, int, int]:
    return (int(value),) * 3 if np.ndim(value) == 0 else tuple(int(v) for v in value)


def resized(volumes: Tensor, size: Sequence[int]) -> Tensor:
    """Return volumes (C, W, H, D), interpolated linearly to a size (W, H, D); on the host where a GPU has no room."""
    if tuple(volumes.shape[1:]) == tuple(size):
        return volumes
    return _where_there_is_room(lambda v: F.interpolate(v[None], size=tuple(size), mode="trilinear")[0], volumes)


def _where_there_is_room(compute: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Return what is computed of values on their GPU, or on the host."""
    with contextlib.suppress(torch.cuda.OutOfMemoryError):
        return compute(values)
    return compute(values.cpu())


def floats_needed(num_classes: int, zooms: Sequence[float]) -> float:
    """Return the numbers that a ``Predictor`` holds at most per voxel of a volume, without those of the network.

    At the largest zoom, these are the image, padded as well, and the classes; at the size of the volume, the classes
    three times.
    """
    return max(1.0, *zooms) ** 3 * (2 + num_classes) + 3 * num_classes


class Predictor:
    """Maps a volume (W, H, D) to class probabilities (C, W, H, D) float32, on the network's device if they fit there.

    Args:
        network: the network on its device; it is put into eval mode.
        patch_size, stride: of the sliding window, per axis; a stride beyond the patch is cut to it.
        precision: 'fp32', 'bf16' or 'fp16' (the network's convolutions; the softmax stays in float32).
        bias: of each class, on its log-probability; None for none.
        zooms: sizes that the volume is predicted at, relative to its own; the mean of the probabilities is returned.
    """

    def __init__(
        self,
        network: UNet3D,
        patch_size: Sequence[int],
        stride: Sequence[int],
        precision: str,
        bias: Sequence[float] | None = None,
        zooms: Sequence[float] = (1.0,),
    ):
        self.network = network.eval()
        self.patch_size = tuple(patch_size)
        self.stride = tuple(min(s, p) for s, p in zip(stride, patch_size, strict=True))
        self.device = next(network.parameters()).device
        self.precision, self.bias, self.zooms = precision, bias, tuple(zooms)

    def __call__(self, volume: Tensor) -> Tensor:
        with contextlib.suppress(torch.cuda.OutOfMemoryError):  # then its windows are moved one by one
            volume = volume.to(self.device)
        total = self._at(volume, self.zooms[0])
        for zoom in self.zooms[1:]:
            try:
                part = self._at(volume, zoom)
            except torch.cuda.OutOfMemoryError:
                total = total.cpu()
                part = self._at(volume, zoom)
            if part.device != total.device:
                total, part = total.cpu(), part.cpu()
            total += part
        if len(self.zooms) > 1:
            total /= len(self.zooms)
        return _where_there_is_room(lambda probabilities: shifted(probabilities, self.bias), total)

    @torch.no_grad()
    def _at(self, volume: Tensor, zoom: float) -> Tensor:
        """Return the class probabilities of a volume that is predicted at another size."""
        image = resized(volume[None].float(), [max(1, round(n * zoom)) for n in volume.shape])[0]
        probabilities = sliding_window(image, self._probabilities, self.patch_size, self.stride)
        return resized(probabilities, volume.shape)

    def _probabilities(self, windows: Tensor) -> Tensor:
        windows = windows.to(self.device)
        with autocast(self.device.type, self.precision):
            return self.network.logits(windows).softmax(1)
