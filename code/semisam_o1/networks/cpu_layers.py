"""What networks do differently on a CPU: PyTorch's own layers are slow there, or wrong in bf16."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Dropout):
    """nn.Dropout, on a CPU by 16 random bits per value: five times faster than drawing Bernoulli numbers.

    The probability is rounded to a multiple of 2⁻¹⁶; what is kept is scaled by the rounded one.
    """

    def forward(self, x: Tensor) -> Tensor:
        drop = round(self.p * 2**16)
        if x.device.type != "cpu" or not self.training or not 0 < drop < 2**16:
            return super().forward(x)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), 2**63 - 1)
        bits = words.view(torch.int16)[: x.numel()].as_strided(x.shape, torch.empty_like(x).stride())
        # Compared in place: conversions from bool are slow.
        return x * bits.ge_(drop - 2**15).to(x.dtype).mul_(2**16 / (2**16 - drop))


class InstanceNorm(nn.InstanceNorm3d):
    """nn.InstanceNorm3d without parameters; on a CPU in channels last one item at a time, as batches of one.

    PyTorch's own would copy the volume to the other layout and back.
    """

    LARGEST = 2**21  # voxels; the sums behind batch normalization lose digits beyond

    def forward(self, x: Tensor) -> Tensor:
        if not is_channels_last(x) or x[0, 0].numel() > self.LARGEST:
            return super().forward(x)
        # In float32, as the statistics then are; these two are not learned.
        scale, shift = x.new_ones(x.shape[1], dtype=torch.float32), x.new_zeros(x.shape[1], dtype=torch.float32)
        items = (F.batch_norm(item, None, None, scale, shift, training=True, eps=self.eps) for item in x.split(1))
        return torch.cat(tuple(items))


class Upsample(nn.Module):
    """Trilinear interpolation (B, C, W, H, D) → (B, C, 2W, 2H, 2D), corners not aligned.

    On a CPU axis by axis as products with a small matrix: faster than ``F.interpolate``.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
        batch, channels, *sides = x.shape
        w, h, d = (_doubling(side, x.dtype) for side in sides)
        planes = (h @ (x @ d.T)).reshape(batch, channels, sides[0], -1)
        return (w @ planes).reshape(batch, channels, *(2 * side for side in sides))


class MaxPool(nn.Module):
    """The largest of every 2³ voxels; on a CPU in the input's precision, and without gradient by halves, faster."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.max_pool3d(x, 2)
        if torch.is_grad_enabled():
            with torch.autocast("cpu", enabled=False):  # which would pool in float32
                return F.max_pool3d(x, 2)
        w, h, d = (side - side % 2 for side in x.shape[2:])
        x = torch.maximum(x[..., 0:w:2, :, :], x[..., 1:w:2, :, :])
        x = torch.maximum(x[..., 0:h:2, :], x[..., 1:h:2, :])
        return torch.maximum(x[..., 0:d:2], x[..., 1:d:2])


def channels_last(x: Tensor) -> Tensor:
    """Return x (B, C, W, H, D) with the channels of a voxel side by side, if it is for bf16 layers on a CPU.

    oneDNN then copies no activation to a layout of its own and back. What follows keeps the layout of its input.
    """
    in_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if x.device.type != "cpu" or not in_bf16:
        return x
    # Copied even where there is one channel: only the strides tell the layout then.
    return x.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)


def is_channels_last(x: Tensor) -> bool:
    """Return whether x is what ``channels_last`` makes, or came of it."""
    in_bf16 = x.device.type == "cpu" and x.dtype == torch.bfloat16
    return in_bf16 and x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()


class Linear(nn.Linear):
    """nn.Linear; on a CPU as a convolution of 1²: oneDNN uses what MKL leaves idle on processors of other makers."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return super().forward(x)
        rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # channels last, as it lies
        out = F.conv2d(rows, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def convolve_upsampled(convolution: nn.Conv3d, skip: Tensor, lower: Tensor) -> Tensor:
    """Return the 3³ convolution of skip (B, S, 2W, 2H, 2D) and, behind it, lower (B, L, W, H, D) upsampled by 2.

    Both in channels last. Interpolation and convolution are linear: along W the three taps are applied before it is
    doubled, which takes half of the arithmetic, and no concatenated volume exists.
    """
    weight = convolution.weight.to(skip.dtype)
    own, below = weight.split([skip.shape[1], lower.shape[1]], dim=1)
    out = F.conv3d(skip, own, convolution.bias, padding=1)
    planes = F.interpolate(lower, scale_factor=(1, 2, 2), mode="trilinear", align_corners=False)
    total = out.movedim(1, -1).flatten(2)
    matrices = _doubled_taps(lower.shape[2], lower.dtype)
    for i, (tap, matrix) in enumerate(zip(below.split(1, dim=2), matrices, strict=True)):
        part = F.conv3d(planes, tap, padding=(0, 1, 1)).movedim(1, -1).flatten(2)
        # In place only on a tensor of its own: through a view, gradients would be copied about.
        add = total.baddbmm_ if i else total.baddbmm
        total = add(matrix.expand(len(part), -1, -1), part)
    return total.view(out.movedim(1, -1).shape).movedim(-1, 1)


@lru_cache(maxsize=64)
def _doubled_taps(side: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return, for every tap of a convolution, the matrix (2·side, side) that interpolates an axis and shifts it."""
    with torch.inference_mode(False), torch.no_grad():
        padded = F.pad(_doubling(side, torch.float32), (0, 0, 1, 1))
        return tuple(padded[tap : tap + 2 * side].to(dtype) for tap in range(3))


@lru_cache(maxsize=64)
def _doubling(side: int, dtype: torch.dtype) -> Tensor:
    """Return the matrix (2·side, side) that interpolates one axis."""
    with torch.inference_mode(False), torch.no_grad():  # it is kept for training, too
        index = torch.arange(2 * side, device="cpu")
        places = ((index + 0.5) / 2 - 0.5).clamp(0, side - 1)
        return (1 - (places[:, None] - index[:side]).abs()).clamp_min(0).to(dtype)


def guard_small(convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ``convolve(x)``, in float32 where x (B, C, W, H, D) is tiny and on the CPU.

    oneDNN's bf16 weight gradient reads uninitialized memory where an axis has 1 or 2 voxels (seen with
    torch 2.13): the result differs from call to call and is NaN at times. Volumes this small cost nothing.
    """
    if x.device.type == "cpu" and min(x.shape[2:]) < 4:
        with torch.autocast("cpu", enabled=False):
            return convolve(x.float())
    return convolve(x)
