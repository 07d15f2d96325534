"""Layers for CPUs, where PyTorch's own are slow, or wrong in bf16; and instance normalization for GPUs.

All other layers are PyTorch's on a GPU. Its normalization launches one block per channel and item, 16 or 32 of them at
full resolution, on more than a hundred multiprocessors; the ways in ``NORMS`` differ in speed and in rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from semisam_o1.data.sampling.fields import interpolate, interpolation_matrix

VOXELS = (2, 3, 4)  # axes of (B, C, W, H, D) over which an item is normalized


class Dropout(nn.Dropout):
    """nn.Dropout; on a CPU by 16 random bits per value, five times faster than drawing Bernoulli numbers.

    The probability is rounded to a multiple of 2⁻¹⁶, for dropping and for scaling.
    """

    def forward(self, x: Tensor) -> Tensor:
        drop = round(self.p * 2**16)
        if x.device.type != "cpu" or not self.training or not 0 < drop < 2**16:
            return super().forward(x)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), 2**63 - 1)
        bits = words.view(torch.int16)[: x.numel()].as_strided(x.shape, torch.empty_like(x).stride())
        # Compared in place: conversions from bool are slow.
        return x * bits.ge_(drop - 2**15).to(x.dtype).mul_(2**16 / (2**16 - drop))


def by_item(x: Tensor, eps: float) -> Tensor:
    """Normalize (B, C, W, H, D) by batch normalization of one item at a time."""
    # In float32, so that the statistics are, too; neither is learned.
    scale, shift = x.new_ones(x.shape[1], dtype=torch.float32), x.new_zeros(x.shape[1], dtype=torch.float32)
    items = (F.batch_norm(item, None, None, scale, shift, training=True, eps=eps) for item in x.split(1))
    return torch.cat(tuple(items))


class ByMoments(torch.autograd.Function):
    """Normalizes (B, C, W, H, D) by reductions to mean and variance and a fused multiply-add.

    Every volume is read and written in its own precision and layout; what is summed over it is float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        if x.dtype == torch.float32:
            variance, mean = torch.var_mean(x, VOXELS, correction=0, keepdim=True)
        else:  # var_mean would round its results to 8 bits
            mean = x.mean(VOXELS, keepdim=True, dtype=torch.float32)
            length = torch.linalg.vector_norm(x, 2, VOXELS, keepdim=True, dtype=torch.float32)
            variance = (length.square() / x[0, 0].numel() - mean.square()).clamp_min(0)
        scale = (variance + eps).rsqrt()
        normal = torch.addcmul(-mean * scale, x, scale, out=torch.empty_like(x))
        ctx.save_for_backward(normal, scale)
        return normal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        normal, scale = ctx.saved_tensors
        mean = gradient.mean(VOXELS, keepdim=True, dtype=torch.float32)
        along = (gradient * normal).mean(VOXELS, keepdim=True, dtype=torch.float32)
        # scale · (gradient − mean − normal · along)
        centered = torch.addcmul(-scale * mean, gradient, scale, out=torch.empty_like(gradient))
        return torch.addcmul(centered, normal, -scale * along, out=torch.empty_like(normal)), None


NORMS: dict[str, Callable[[Tensor, float], Tensor]] = {"moments": ByMoments.apply, "batch_norm": by_item}


class InstanceNorm(nn.InstanceNorm3d):
    """nn.InstanceNorm3d without parameters; on a CPU in channels last, batch normalization of one item at a time.

    PyTorch's own would copy the volume to the contiguous layout and back.
    """

    MAX_VOXELS = 2**21  # the sums of batch normalization lose precision in larger volumes
    kernel = "native"  # what computes it on a GPU, or one of ``NORMS``

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cuda" and self.kernel != "native":
            return NORMS[self.kernel](x, self.eps)
        if not is_channels_last(x) or x[0, 0].numel() > self.MAX_VOXELS:
            return super().forward(x)
        return by_item(x, self.eps)


class Upsample(nn.Module):
    """Trilinear interpolation (B, C, W, H, D) → (B, C, 2W, 2H, 2D), corners not aligned.

    On a CPU by products with a small matrix, axis by axis, faster than ``F.interpolate``.

    Args:
        factors: 2, or 1 for an axis that stays as it is.
    """

    def __init__(self, factors: tuple[int, ...] = (2, 2, 2)):
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *sides = x.shape
        targets = [side * factor for side, factor in zip(sides, self.factors, strict=True)]
        if x.device.type != "cpu":
            return interpolate(x, targets)
        w, h, d = (
            None if side == target else interpolation_matrix(side, target, x.dtype, x.device)
            for side, target in zip(sides, targets, strict=True)
        )
        x = x if d is None else x @ d.T
        x = x if h is None else h @ x
        if w is not None:
            x = w @ x.reshape(batch, channels, sides[0], -1)
        return x.reshape(batch, channels, *targets)


class MaxPool(nn.Module):
    """Max pooling over 2³ voxels; on a CPU in the input's precision, and faster where no gradient is needed.

    Args:
        factors: 2, or 1 for an axis that stays as it is.
    """

    def __init__(self, factors: tuple[int, ...] = (2, 2, 2)):
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.max_pool3d(x, self.factors)
        if torch.is_grad_enabled():
            with torch.autocast("cpu", enabled=False):  # which would pool in float32
                return F.max_pool3d(x, self.factors)
        for axis, factor in zip(VOXELS, self.factors, strict=True):
            if factor == 2:
                end, after = x.shape[axis] // 2 * 2, (slice(None),) * (4 - axis)
                x = torch.maximum(x[(..., slice(0, end, 2), *after)], x[(..., slice(1, end, 2), *after)])
        return x


def channels_last(x: Tensor, on_gpu: bool = False) -> Tensor:
    """Return x (B, C, W, H, D) in the channels-last layout, if bf16 layers on a CPU follow, or on a GPU if asked for.

    oneDNN then converts no activation to a layout of its own and back. Further layers keep the layout of their input.
    """
    in_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if not (in_bf16 if x.device.type == "cpu" else on_gpu):
        return x
    # Copied even if there is only one channel, where the layout shows in the strides alone.
    return x.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)


def is_channels_last(x: Tensor) -> bool:
    """Return whether x is bf16 on a CPU in the layout of ``channels_last``."""
    in_bf16 = x.device.type == "cpu" and x.dtype == torch.bfloat16
    return in_bf16 and x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()


class Linear(nn.Linear):
    """nn.Linear; on a CPU as a 1² convolution by oneDNN, since MKL is slow on processors other than Intel's."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return super().forward(x)
        rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # a channels-last view
        out = F.conv2d(rows, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def convolve_upsampled(convolution: nn.Conv3d, skip: Tensor, lower: Tensor) -> Tensor:
    """Return the 3³ convolution of skip (B, S, 2W, 2H, 2D) concatenated with lower (B, L, W, H, D) upsampled by 2.

    Both are in channels last. Interpolation and convolution are linear: along W, the three taps are applied before
    upsampling, with half of the arithmetic and without a concatenated volume.
    """
    weight = convolution.weight.to(skip.dtype)
    own, below = weight.split([skip.shape[1], lower.shape[1]], dim=1)
    out = F.conv3d(skip, own, convolution.bias, padding=1)
    planes = F.interpolate(lower, scale_factor=(1, 2, 2), mode="trilinear", align_corners=False)
    total = out.movedim(1, -1).flatten(2)
    matrices = _doubled_taps(lower.shape[2], lower.dtype)
    for i, (tap, matrix) in enumerate(zip(below.split(1, dim=2), matrices, strict=True)):
        part = F.conv3d(planes, tap, padding=(0, 1, 1)).movedim(1, -1).flatten(2)
        # Not in place on the view, through which gradients would be copied.
        add = total.baddbmm_ if i else total.baddbmm
        total = add(matrix.expand(len(part), -1, -1), part)
    return total.view(out.movedim(1, -1).shape).movedim(-1, 1)


@lru_cache(maxsize=64)
def _doubled_taps(side: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return the matrices (2·side, side) that interpolate an axis and shift it, one per tap of a convolution."""
    with torch.inference_mode(False), torch.no_grad():
        padded = F.pad(interpolation_matrix(side, 2 * side, torch.float32, torch.device("cpu")), (0, 0, 1, 1))
        return tuple(padded[tap : tap + 2 * side].to(dtype) for tap in range(3))


def guard_small(convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ``convolve(x)``, in float32 where x (B, C, W, H, D) is tiny and on the CPU.

    oneDNN's bf16 weight gradient reads uninitialized memory where an axis has 1 or 2 voxels (observed with torch 2.13):
    the result differs from call to call and is sometimes NaN.
    """
    if x.device.type == "cpu" and min(x.shape[2:]) < 4:
        with torch.autocast("cpu", enabled=False):
            return convolve(x.float())
    return convolve(x)
