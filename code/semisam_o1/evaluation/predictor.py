"""A network applied to whole volumes, and its Dice on labeled ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from semisam_o1.core.distributed import share_out
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.evaluation.sliding_window import sliding_window
from semisam_o1.networks.unet3d import UNet3D


class Predictor:
    """Maps a volume (W, H, D) to class probabilities (C, W, H, D) float32, on the network's device if they fit there.

    Args:
        network: the network on its device; it is put into eval mode.
        patch_size, stride: of the sliding window, per axis; a stride beyond the patch is cut to it.
        precision: 'fp32' or 'bf16' (the network's convolutions; the softmax stays in float32).
    """

    def __init__(self, network: UNet3D, patch_size: Sequence[int], stride: Sequence[int], precision: str):
        self.network = network.eval()
        self.patch_size = tuple(patch_size)
        self.stride = tuple(min(s, p) for s, p in zip(stride, patch_size, strict=True))
        self.device = next(network.parameters()).device
        self.precision = precision

    def __call__(self, volume: Tensor) -> Tensor:
        with contextlib.suppress(torch.cuda.OutOfMemoryError):  # then its windows are moved one by one
            volume = volume.to(self.device)
        return sliding_window(volume, self._probabilities, self.patch_size, self.stride)

    def _probabilities(self, windows: Tensor) -> Tensor:
        windows = windows.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.network.logits(windows).softmax(1)


def mean_dice(
    predictor: Predictor,
    names: Sequence[str],
    image: Callable[[str], Tensor],
    label: Callable[[str], Tensor],
    num_classes: int,
) -> list[float]:
    """Return the mean Dice over volumes of every foreground class; the volumes are distributed over the ranks."""

    def score(name: str) -> list[float]:
        prediction = predictor(image(name)).argmax(0)
        return dice_per_class(prediction, label(name).to(prediction.device), num_classes)

    return np.mean(share_out(score, names), axis=0).tolist()
