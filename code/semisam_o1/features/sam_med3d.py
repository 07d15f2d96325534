"""The image encoder of SAM-Med3D, with the padding of its attention windows folded into one key.

Wang et al., "SAM-Med3D", 2023, https://arxiv.org/abs/2310.15161, vit_b_ori. A block with window attention pads its 8³
tokens to one 14³ window *after* the norm. All 2,232 padding tokens therefore share one key and one value (the biases
of the projection) and differ in their relative position alone. The sum of their attention weights has a closed form,
see ``_padding_logit``; the padded window is never built.

Relative positions follow the released weights, not the names of their tables: the logit of query (d, h, w) for key
(d', h', w') is

    scale · q·k + q[d,h,w]·R_d[d,w'] + q[d,h,d']·R_h[h,w'] + q[d,h,h']·R_w[h',w']

where q[d,h,i] is the query vector at position (d, h, w=i), that of a padding token where i lies outside the grid.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semisam_o1.core.errors import InputError, listed
from semisam_o1.core.safe_load import load_tensors
from semisam_o1.networks.layers import Linear

PATCH_SIDE = 128  # voxels per axis of the released position embedding
TOKEN_SIDE = 16  # voxels per axis of a token
EPS = 1e-6  # of all layer norms
PREFIX = "image_encoder."


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, D, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def _relative_table(table: Tensor, rows: int, columns: int) -> Tensor:
    """Return (rows, columns, C): entry (q, k) is row q − k + side − 1 of ``table`` (2·side − 1, C)."""
    side = (table.shape[0] + 1) // 2
    q = torch.arange(rows, device=table.device)[:, None]
    k = torch.arange(columns, device=table.device)[None, :]
    return table[q - k + side - 1]


class Attention(nn.Module):
    """Multi-head attention over one cube of tokens, as if it were padded with zeros to ``window`` a side.

    Args:
        dim: channels.
        heads: number of heads, ``dim`` divisible by it.
        side: tokens per axis.
        window: tokens per axis of the padded window, at least ``side``; equal to it for global attention.
    """

    def __init__(self, dim: int, heads: int, side: int, window: int):
        super().__init__()
        self.heads, self.side, self.window = heads, side, window
        self.head_dim = dim // heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        for axis in "dhw":
            table = nn.Parameter(torch.zeros(2 * window - 1, self.head_dim))
            self.register_parameter(f"rel_pos_{axis}", table)

    def forward(self, x: Tensor) -> Tensor:
        """(B, side, side, side, dim) → the same shape."""
        batch, n, heads = x.shape[0], self.side, self.heads
        tokens = n**3
        q, k, v = (
            self.qkv(x).reshape(batch, tokens, 3, heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        )  # each (B, heads, tokens, head_dim)
        grid = q.reshape(batch, heads, n, n, n, self.head_dim)
        padding = self.window - n
        if padding:
            q_pad, k_pad, v_pad = self.qkv.bias.reshape(3, 1, heads, 1, self.head_dim).unbind(0)
            row = q_pad.reshape(1, heads, 1, 1, 1, -1).expand(batch, -1, n, n, padding, -1)
            row = torch.cat([grid, row], dim=4)  # the queries (d, h, ·) of the padded window
        else:
            row = grid

        # Key columns w' run over the whole window: the folded padding needs those outside the grid, too.
        table_d = _relative_table(self.rel_pos_d, n, self.window)  # (d, w')
        table_h = _relative_table(self.rel_pos_h, n, self.window)  # (h, w')
        table_w = _relative_table(self.rel_pos_w, self.window, self.window)  # (h', w')
        by_query = torch.einsum("bmdhwc,dkc->bmdhwk", grid, table_d)  # (d, h, w; w')
        by_depth = torch.einsum("bmdhic,hkc->bmdhik", row, table_h)  # (d, h; d', w')
        by_height = torch.einsum("bmdhic,ikc->bmdhik", row, table_w)  # (d, h; h', w')

        bias = (
            by_query[..., None, None, :n]
            + by_depth[:, :, :, :, None, :n, None, :n]
            + by_height[:, :, :, :, None, None, :n, :n]
        ).reshape(batch, heads, tokens, tokens)
        if padding:
            logit = self._padding_logit(by_query, by_depth, by_height).reshape(batch, heads, tokens, 1)
            bias = torch.cat([bias, logit], dim=3)
            k = torch.cat([k, k_pad.expand(batch, -1, -1, -1)], dim=2)
            v = torch.cat([v, v_pad.expand(batch, -1, -1, -1)], dim=2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).reshape(batch, n, n, n, -1))

    def _padding_logit(self, by_query: Tensor, by_depth: Tensor, by_height: Tensor) -> Tensor:
        """Return log Σ exp(relative terms) over all padding keys, (B, heads, d, h, w).

        For a column w' the sum over (d', h') separates. Inside the grid a key is padding where d' or h' is
        outside; beyond the grid's last column every key is padding.
        """
        n = self.side
        depth_in, depth_out = by_depth[..., :n, :].logsumexp(-2), by_depth[..., n:, :].logsumexp(-2)
        height_in, height_out = by_height[..., :n, :].logsumexp(-2), by_height[..., n:, :].logsumexp(-2)
        height_all = torch.logaddexp(height_in, height_out)
        column = torch.logaddexp(depth_out + height_all, depth_in + height_out)
        beyond = torch.logaddexp(depth_in, depth_out) + height_all
        column = torch.cat([column[..., :n], beyond[..., n:]], dim=-1)  # (B, heads, d, h, w')
        return (by_query + column[..., None, :]).logsumexp(-1)


class Block(nn.Module):
    """Pre-norm transformer block on (B, side, side, side, dim)."""

    def __init__(self, dim: int, heads: int, side: int, window: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, EPS)
        self.attn = Attention(dim, heads, side, window)
        self.norm2 = nn.LayerNorm(dim, EPS)
        layers = {"lin1": Linear(dim, 4 * dim), "gelu": nn.GELU(), "lin2": Linear(4 * dim, dim)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ImageEncoder(nn.Module):
    """(B, 1, side, side, side) → features (B, out_channels, side/16, side/16, side/16).

    The defaults are those of SAM-Med3D-turbo (vit_b_ori).

    Args:
        side: voxels per axis of the input.
        window: side of the attention windows, at least side / 16.
        global_blocks: blocks that attend without padding.
    """

    def __init__(
        self,
        side: int = PATCH_SIDE,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        out_channels: int = 384,
        window: int = 14,
        global_blocks: tuple[int, ...] = (2, 5, 8, 11),
    ):
        super().__init__()
        grid = side // TOKEN_SIDE
        if side % TOKEN_SIDE or grid > window:
            limit = TOKEN_SIDE * window
            raise ValueError(f"side must be a multiple of {TOKEN_SIDE} and at most {limit}, it is {side}")
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv3d(1, dim, TOKEN_SIDE, stride=TOKEN_SIDE)))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, grid, dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, grid, grid if i in global_blocks else window) for i in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv3d(dim, out_channels, 1, bias=False),
            ChannelLayerNorm(out_channels, EPS),
            nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False),
            ChannelLayerNorm(out_channels, EPS),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).movedim(1, -1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.movedim(-1, 1))


def load_encoder(path: str | Path, device: str | torch.device = "cpu") -> ImageEncoder:
    """Load a SAM-Med3D checkpoint's image encoder, (B, 1, 128, 128, 128) → (B, 384, 8, 8, 8), frozen and in eval mode.

    Args:
        path: a checkpoint whose ``model_state_dict`` holds the whole model (image encoder, prompt encoder, mask
            decoder), or a bare state dict of the model or of its image encoder. Only tensors are unpickled.

    Raises:
        InputError: if the file is missing, is no such checkpoint, or lacks or misshapes a key.
    """
    weights = _encoder_weights(Path(path))
    with torch.device("meta"):
        encoder = ImageEncoder()
    expected = encoder.state_dict()
    missing = [key for key in expected if key not in weights]
    misshapen = [
        f"{key} is {tuple(weights[key].shape)} and should be {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if missing or misshapen:
        faults = [f"lacks {listed(missing, 5)}"] * bool(missing) + [listed(misshapen, 5)] * bool(misshapen)
        raise InputError(f"{path} is no SAM-Med3D (vit_b_ori) checkpoint: {'; '.join(faults)}")
    encoder.load_state_dict({key: weights[key].float() for key in expected}, assign=True)
    return encoder.requires_grad_(False).eval().to(device)


def _encoder_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(
            f"{path} is missing; download sam_med3d_turbo.pth from the SAM-Med3D project and put it there, name it "
            "with --sam_ckpt, or run without it: --propagation atlas --features builtin"
        )
    content = load_tensors(path)
    if isinstance(content, dict) and isinstance(content.get("model_state_dict"), dict):
        content = content["model_state_dict"]
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict; download it again")
    weights = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    prefixed = {key.removeprefix(PREFIX): value for key, value in weights.items() if key.startswith(PREFIX)}
    return prefixed or weights
