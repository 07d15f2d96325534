"""Loss terms that the methods share. Sums are taken over all ranks before they are divided."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..distributed import sum_over_ranks


def one_hot(label: Tensor, num_classes: int) -> Tensor:
    """(B, W, H, D) whole numbers → (B, num_classes, W, H, D) float32."""
    classes = torch.arange(num_classes, device=label.device).view(1, -1, 1, 1, 1)
    return (label[:, None] == classes).float()


def dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """Return 1 − (2Σpg + ε)/(Σp² + Σg² + ε), ε = 1e-5, summed per class over the whole batch, mean over classes.

    Args:
        probabilities, target: (B, C, W, H, D) of the same shape.
    """
    if probabilities.shape != target.shape:
        raise ValueError(f"shapes differ: {tuple(probabilities.shape)} and {tuple(target.shape)}")
    axes = (0, 2, 3, 4)
    overlap, size = sum_over_ranks(
        torch.stack([(probabilities * target).sum(axes), probabilities.square().sum(axes) + target.square().sum(axes)])
    )
    return (1 - (2 * overlap + 1e-5) / (size + 1e-5)).mean()


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, C, W, H, D) and labels (B, W, H, D)."""
    return F.cross_entropy(logits, label.long())


def squared_difference(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise squared difference of two tensors of the same shape."""
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    return (a - b).square()
