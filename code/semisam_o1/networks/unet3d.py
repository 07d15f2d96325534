"""The 3-D U-Nets that are trained: ``unet_3D`` and its variant with a signed-distance head.

Module names follow the published checkpoints (SSL4MIS's unet_3D, DTC's unet_3D_sdf), so that their
state dicts load with ``strict=True``. Architecture: Çiçek et al., "3D U-Net", MICCAI 2016.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from semisam_o1.networks import layers
from semisam_o1.networks.levels import ISOTROPIC, PLAIN, Level, parse_levels

WIDTHS = (16, 32, 64, 128, 256)


def _convolution(in_channels: int, out_channels: int, kernel: tuple[int, ...]) -> nn.Sequential:
    padding = tuple(side // 2 for side in kernel)
    # Not in place: the gradient of InstanceNorm needs its output.
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel, padding=padding), layers.InstanceNorm(out_channels), nn.ReLU()
    )


class DoubleConvolution(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, ...] = PLAIN.kernel):
        super().__init__()
        self.conv1 = _convolution(in_channels, out_channels, kernel)
        self.conv2 = _convolution(out_channels, out_channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return layers.guard_small(lambda x: self.conv2(self.conv1(x)), x)


class UpConcat(nn.Module):
    """Upsample the lower level by the stride to it, concatenate it to the skip connection, convolve twice."""

    def __init__(self, skip_channels: int, lower_channels: int, level: Level = PLAIN):
        super().__init__()
        self.conv = DoubleConvolution(skip_channels + lower_channels, skip_channels, level.kernel)
        self.up = layers.Upsample(level.stride)
        self.plain = level == PLAIN

    def forward(self, skip: Tensor, lower: Tensor) -> Tensor:
        if self.plain and layers.is_channels_last(skip) and layers.is_channels_last(lower):
            convolution, norm, relu = self.conv.conv1
            return self.conv.conv2(relu(norm(layers.convolve_upsampled(convolution, skip, lower))))
        # Levels too small for bf16 are not in channels last: convert above them.
        return self.conv(layers.channels_last(torch.cat([skip, self.up(lower)], dim=1)))


class UNet3D(nn.Module):
    """(B, in_channels, W, H, D) → logits (B, num_classes, W, H, D) in float32.

    W, H and D must be divisible by 16, or by ``networks.levels.divisors`` where not every level halves every axis.

    Args:
        num_classes: background included.
        dropout: probability after the bottom and after the last decoder block.
        levels: of ``networks.levels.parse_levels``.
    """

    layout = "contiguous"  # of activations on a GPU, or 'channels_last'

    def __init__(self, num_classes: int, in_channels: int = 1, dropout: float = 0.3, levels: str = ISOTROPIC):
        super().__init__()
        w1, w2, w3, w4, w5 = WIDTHS
        level1, level2, level3, level4 = parse_levels(levels)
        self.conv1 = DoubleConvolution(in_channels, w1, level1.kernel)
        self.conv2 = DoubleConvolution(w1, w2, level2.kernel)
        self.conv3 = DoubleConvolution(w2, w3, level3.kernel)
        self.conv4 = DoubleConvolution(w3, w4, level4.kernel)
        self.center = DoubleConvolution(w4, w5)
        self.pool1 = layers.MaxPool(level1.stride)
        self.pool2 = layers.MaxPool(level2.stride)
        self.pool3 = layers.MaxPool(level3.stride)
        self.pool4 = layers.MaxPool(level4.stride)
        self.up_concat4 = UpConcat(w4, w5, level4)
        self.up_concat3 = UpConcat(w3, w4, level3)
        self.up_concat2 = UpConcat(w2, w3, level2)
        self.up_concat1 = UpConcat(w1, w2, level1)
        self.dropout1 = layers.Dropout(dropout)
        self.dropout2 = layers.Dropout(dropout)
        self.final = nn.Conv3d(w1, num_classes, 1)

    def decode(self, x: Tensor) -> Tensor:
        """Return the features (B, 16, W, H, D) before the output convolutions."""
        skip1 = self.conv1(layers.channels_last(x, on_gpu=self.layout == "channels_last"))
        skip2 = self.conv2(self.pool1(skip1))
        skip3 = self.conv3(self.pool2(skip2))
        skip4 = self.conv4(self.pool3(skip3))
        bottom = self.dropout1(self.center(self.pool4(skip4)))
        up = self.up_concat4(skip4, bottom)
        up = self.up_concat3(skip3, up)
        up = self.up_concat2(skip2, up)
        return self.dropout2(self.up_concat1(skip1, up))

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.decode(x)).float()

    def logits(self, x: Tensor) -> Tensor:
        """Return the class logits alone."""
        return self(x)

    def initialize(self, generator: torch.Generator | None = None) -> UNet3D:
        """Draw fresh Kaiming-normal (fan-in) weights and uniform biases."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", generator=generator)
                bound = 1 / math.sqrt(module.weight[0].numel())
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        return self


class UNet3DSDF(UNet3D):
    """The U-Net with a second head: returns (signed distance in (−1, 1), logits), each (B, num_classes, W, H, D).

    Luo et al., "Semi-supervised Medical Image Segmentation through Dual-task Consistency", AAAI 2021.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, dropout: float = 0.3, levels: str = ISOTROPIC):
        super().__init__(num_classes, in_channels, dropout, levels)
        self.final2 = nn.Conv3d(WIDTHS[0], num_classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.decode(x)
        return torch.tanh(self.final2(features).float()), self.final(features).float()

    def logits(self, x: Tensor) -> Tensor:
        return self(x)[1]
