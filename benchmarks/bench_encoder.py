#!/usr/bin/env python3
"""The image encoder with folded padding against one that builds the padded windows: time and largest difference."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn

import code_path  # noqa: F401
import timing
from semisam_o1.core.memory import configure_allocator
from semisam_o1.features.sam_med3d import Attention, ImageEncoder


class PaddedAttention(Attention):
    """Attention as the formula says it: all tokens of the padded window, all of their logits."""

    def forward(self, x: Tensor) -> Tensor:
        batch, n, side = x.shape[0], self.side, self.window
        padded = torch.nn.functional.pad(x, (0, 0, *(0, side - n) * 3))
        q, k, v = self.qkv(padded).reshape(batch, side**3, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        logits = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        grid = q.reshape(batch, self.heads, side, side, side, -1)
        offsets = torch.arange(side)[:, None] - torch.arange(side)[None, :] + side - 1
        by_query = torch.einsum("bmdhwc,dkc->bmdhwk", grid, self.rel_pos_d[offsets])
        by_depth = torch.einsum("bmdhic,hkc->bmdhik", grid, self.rel_pos_h[offsets])
        by_height = torch.einsum("bmdhic,ikc->bmdhik", grid, self.rel_pos_w[offsets])
        logits = (
            logits.reshape(batch, self.heads, *[side] * 6)
            + by_query[..., None, None, :]
            + by_depth[:, :, :, :, None, :, None, :]
            + by_height[:, :, :, :, None, None, :, :]
        )
        out = logits.reshape(batch, self.heads, side**3, side**3).softmax(-1) @ v
        out = out.transpose(1, 2).reshape(batch, side, side, side, -1)[:, :n, :n, :n]
        return self.proj(out)


@torch.no_grad()
def run(padded: bool, repeats: int) -> tuple[float, np.ndarray]:
    """Return the median time of a forward pass and its result."""
    torch.manual_seed(0)
    encoder = ImageEncoder().eval()
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    volume = torch.randn(1, 1, 128, 128, 128)
    if padded:
        for block in encoder.blocks:
            block.attn.__class__ = PaddedAttention
        for module in encoder.modules():
            if isinstance(module, nn.Linear):
                module.__class__ = nn.Linear
    else:
        configure_allocator("cpu")
    (seconds,) = timing.medians(lambda: encoder(volume), repeats=repeats)
    return seconds, encoder(volume).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(timing.machine())
    padded, expected = timing.in_process(run, True, arguments.repeats)
    folded, features = timing.in_process(run, False, arguments.repeats)
    timing.say("encoder, one 128³ volume, padding built against padding folded", padded, folded)
    print(f"largest difference {abs(features - expected).max():.1e}")


if __name__ == "__main__":
    main()
