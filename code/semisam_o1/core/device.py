"""Device and precision selection."""

from __future__ import annotations

import torch

from semisam_o1.core.errors import InputError


def resolve_device(device: str) -> str:
    """Return 'cuda' or 'cpu'; 'auto' selects CUDA if it is available.

    Raises:
        InputError: if CUDA is requested and not available.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device here; use --device cpu or install a CUDA build")
    return device


def resolve_precision(precision: str, device: str) -> str:
    """Return 'bf16' or 'fp32'; 'auto' selects bf16 on devices that multiply it natively."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32"
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, check, bool)() for check in checks)
    return "bf16" if native else "fp32"


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; from the host to a GPU it is copied without a wait, through pinned memory."""
    if tensor.device.type == device.type:
        return tensor
    if device.type == "cuda":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
