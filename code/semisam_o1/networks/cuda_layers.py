"""Instance normalization for GPUs in several ways, which differ in speed and in rounding alone.

PyTorch's own launches one block per channel and item, 16 or 32 of them at full resolution, on a GPU with more than a
hundred multiprocessors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

VOXELS = (2, 3, 4)  # axes of (B, C, W, H, D) over which an item is normalized


def by_item(x: Tensor, eps: float) -> Tensor:
    """Normalize (B, C, W, H, D) by batch normalization of one item at a time."""
    # In float32, so that the statistics are, too; neither is learned.
    scale, shift = x.new_ones(x.shape[1], dtype=torch.float32), x.new_zeros(x.shape[1], dtype=torch.float32)
    items = (F.batch_norm(item, None, None, scale, shift, training=True, eps=eps) for item in x.split(1))
    return torch.cat(tuple(items))


def by_moments(x: Tensor, eps: float) -> Tensor:
    """Normalize (B, C, W, H, D) by reductions to mean and variance in float32 and a fused multiply-add."""
    return _ByMoments.apply(x, eps)


NORMS: dict[str, Callable[[Tensor, float], Tensor]] = {"moments": by_moments, "batch_norm": by_item}


class _ByMoments(torch.autograd.Function):
    """Every volume is read and written in its own precision and layout; what is summed over it is float32."""

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
