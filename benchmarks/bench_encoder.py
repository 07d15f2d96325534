#!/usr/bin/env python3
"""The image encoder with folded padding against one that builds the padded windows: time and largest difference."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import torch
from torch import Tensor

from semisam_o1.features.sam_med3d import Attention, ImageEncoder


class PaddedAttention(Attention):
    """Attention as the formula says it: all tokens of the padded window, all of their logits."""

    def forward(self, x: Tensor) -> Tensor:
        batch, n, side = x.shape[0], self.side, self.window
        padded = x.new_zeros(batch, side, side, side, x.shape[-1])
        padded[:, :n, :n, :n] = x
        q, k, v = self.qkv(padded).reshape(batch, side**3, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        logits = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        grid = q.reshape(batch, self.heads, side, side, side, -1)
        offsets = torch.arange(side)[:, None] - torch.arange(side)[None, :] + side - 1
        by_query = torch.einsum("bmdhwc,dkc->bmdhwk", grid, self.rel_pos_d[offsets])
        by_depth = torch.einsum("bmdhic,hkc->bmdhik", grid, self.rel_pos_h[offsets])
        by_height = torch.einsum("bmdhic,ikc->bmdhik", grid, self.rel_pos_w[offsets])
        logits = logits.reshape(batch, self.heads, *[side] * 6)
        logits += by_query[..., None, None, :]
        logits += by_depth[:, :, :, :, None, :, None, :]
        logits += by_height[:, :, :, :, None, None, :, :]
        out = logits.reshape(batch, self.heads, side**3, side**3).softmax(-1) @ v
        out = out.transpose(1, 2).reshape(batch, side, side, side, -1)[:, :n, :n, :n]
        return self.proj(out)


def seconds(encoder: ImageEncoder, volume: Tensor, repeats: int) -> tuple[float, Tensor]:
    """Return the median time of a forward pass and its result."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        features = encoder(volume)
        times.append(time.perf_counter() - started)
    return statistics.median(times), features


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    encoder = ImageEncoder().eval()
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    volume = torch.randn(1, 1, 128, 128, 128)
    seconds(encoder, volume, 1)
    folded, ours = seconds(encoder, volume, arguments.repeats)
    for block in encoder.blocks:
        block.attn.__class__ = PaddedAttention
    padded, plain = seconds(encoder, volume, arguments.repeats)
    difference = (ours - plain).abs().max().item()
    print(f"threads {torch.get_num_threads()}, one 128³ volume, median of {arguments.repeats}")
    print(f"padded {padded:.2f} s, folded {folded:.2f} s: {padded / folded:.1f} times faster")
    print(f"largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
