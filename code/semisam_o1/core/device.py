"""What computes, and in which precision."""

from __future__ import annotations

import torch

from semisam_o1.core.errors import InputError
from semisam_o1.core.memory import keep_freed_memory


def use_device(wanted: str) -> str:
    """Return 'cuda' or 'cpu' for 'auto' or one of them, the process being set up for it.

    Raises:
        InputError: if cuda is asked for and not to be had.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise InputError("--device cuda: PyTorch finds no CUDA device here; use --device cpu or install a CUDA build")
    if wanted == "cuda" or (wanted == "auto" and available):
        return "cuda"
    keep_freed_memory()
    return "cpu"


def resolve_precision(precision: str, device: str) -> str:
    """Return 'bf16' or 'fp32'; auto takes bf16 where the device multiplies it natively."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32"
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, check, bool)() for check in checks)
    return "bf16" if native else "fp32"
