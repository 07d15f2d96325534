"""The one sliding window: validation, pseudo-labels, testing and prediction all go through it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.geometry import centred_padding


def window_starts(size: int, patch: int, stride: int) -> list[int]:
    """Return where the windows of one axis start: at multiples of the stride, the last flush with the end."""
    return [*range(0, size - patch, stride), size - patch]


@torch.no_grad()
def sliding_window(
    volume: Tensor | np.ndarray,
    predict: Callable[[Tensor], Tensor],
    patch_size: int | Sequence[int],
    stride: int | Sequence[int],
    batch_size: int = 1,
) -> Tensor | np.ndarray:
    """Average the class probabilities of overlapping windows.

    Args:
        volume: (W, H, D), of any size; an axis shorter than the patch is padded symmetrically with zeros.
        predict: takes windows (B, 1, w, h, d) float32 on the volume's device, returns probabilities (B, C, w, h, d).
        patch_size: of a window, one number or one per axis.
        stride: between windows, at most the patch.
        batch_size: windows predicted at once.

    Returns:
        Probabilities (C, W, H, D) float32: a tensor on the device of ``predict``'s output, an array if
        ``volume`` is one.

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
    padding = centred_padding(image.shape, patch)
    if any(front or back for front, back in padding):
        image = F.pad(image, [n for pair in reversed(padding) for n in pair])
    starts = list(
        itertools.product(*(window_starts(n, p, s) for n, p, s in zip(image.shape, patch, steps, strict=True)))
    )
    total = count = None
    for first in range(0, len(starts), batch_size):
        boxes = [
            tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
            for start in starts[first : first + batch_size]
        ]
        probabilities = predict(torch.stack([image[box] for box in boxes])[:, None])
        if total is None:
            total = torch.zeros(
                (probabilities.shape[1], *image.shape), dtype=torch.float32, device=probabilities.device
            )
            count = torch.zeros(image.shape, dtype=torch.float32, device=probabilities.device)
        for box, window in zip(boxes, probabilities, strict=True):
            total[(slice(None), *box)] += window
            count[box] += 1
    total /= count
    inner = tuple(slice(front, size - back) for (front, back), size in zip(padding, image.shape, strict=True))
    total = total[(slice(None), *inner)]
    return total.cpu().numpy() if isinstance(volume, np.ndarray) else total


def _per_axis(value: int | Sequence[int]) -> tuple[int, int, int]:
    return (int(value),) * 3 if np.ndim(value) == 0 else tuple(int(v) for v in value)
