"""Loss terms that the methods share. Sums are taken over all ranks before they are divided."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from semisam_o1.core.distributed import sum_over_ranks


def one_hot(label: Tensor, num_classes: int) -> Tensor:
    """(B, W, H, D) whole numbers → (B, num_classes, W, H, D) float32."""
    classes = torch.arange(num_classes, device=label.device).view(1, -1, 1, 1, 1)
    return (label[:, None] == classes).float()


def dice_loss(probabilities: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return 1 − (2Σpg + ε)/(Σp² + Σg² + ε), ε = 1e-5, summed per class over the whole batch, mean over classes.

    Args:
        probabilities, target: (B, C, W, H, D) of the same shape.
        weight: voxel weights (B, W, H, D) in the sums; None: equal weights.
    """
    _check_shapes(probabilities, target)

    def total(values: Tensor) -> Tensor:
        return (values if weight is None else values * weight[:, None]).sum((0, 2, 3, 4))

    overlap, size = sum_over_ranks(
        torch.stack([total(probabilities * target), total(probabilities.square()) + total(target.square())])
    )
    return (1 - (2 * overlap + 1e-5) / (size + 1e-5)).mean()


def cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of logits (B, C, W, H, D) and labels (B, W, H, D), Σwv / Σw by weights (B, W, H, D) if given.

    It is 0 where all weights are 0.
    """
    # Averaged here: PyTorch's own mean of maps is added up in random order on a GPU.
    values = F.cross_entropy(logits, label.long(), reduction="none")
    if weight is None:
        return values.mean()
    _check_shapes(values, weight)
    total, weights = sum_over_ranks(torch.stack([(weight * values).sum(), weight.sum()]))
    return total / weights.clamp_min(1e-5)


def squared_difference(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise squared difference of two tensors of the same shape."""
    _check_shapes(a, b)
    return (a - b).square()


def _check_shapes(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
