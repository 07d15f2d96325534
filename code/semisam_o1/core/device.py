"""Device and precision: which are used, and whether they work here."""

from __future__ import annotations

import os
import sys
import warnings
from typing import NamedTuple

import torch

from semisam_o1.core import distributed
from semisam_o1.core.errors import InputError, first_line

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
HALF_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}
OTHER_BUILD = "install PyTorch for CUDA 12: pip install torch --index-url https://download.pytorch.org/whl/cu126"
# Versions of cuDNN that PyTorch does not use for 3-D convolutions in 16 bits, since they compute some of them wrong.
AVOIDED_CUDNN = range(90800, 91500)


class CudaFault(NamedTuple):
    """Why CUDA cannot be used.

    Attributes:
        reason: a clause.
        remedy: what makes CUDA work, a clause.
        unusable: whether there is a GPU or its driver, so that the user expects it to be used.
    """

    reason: str
    remedy: str
    unusable: bool = True


def resolve_device(device: str) -> torch.device:
    """Return this process's device; 'auto' selects CUDA where it works. On CUDA, float32 is not rounded to TF32.

    Of several processes each gets a GPU of its own. If 'auto' cannot use a GPU that is there, a warning says why.

    Raises:
        InputError: if CUDA is requested and does not work, or there are more processes than GPUs.
    """
    if device == "cpu":
        return torch.device("cpu")
    local_rank, processes = (int(os.environ.get(key, n)) for key, n in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)))
    # Not checked where there is no GPU: then there is a better reason.
    if 0 < torch.cuda.device_count() < processes:
        raise InputError(
            f"{processes} processes need a GPU each and PyTorch finds {torch.cuda.device_count()}; use a smaller "
            "--nproc_per_node or --device cpu"
        )
    fault = cuda_fault(local_rank)
    if fault is None:
        # cuDNN's default is TF32, with 10 bits: features in one cache would depend on the device.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        return torch.device("cuda", local_rank)
    if device == "cuda":
        raise InputError(f"--device cuda: {fault.reason}; use --device cpu, or {fault.remedy}")
    if fault.unusable and local_rank == 0:
        print(f"warning: the CPU is used, since {fault.reason}; {fault.remedy}", file=sys.stderr)
    return torch.device("cpu")


def cuda_fault(index: int = 0) -> CudaFault | None:
    """Run one small kernel on a GPU; return why that is impossible, None if it worked."""
    try:
        with warnings.catch_warnings():  # PyTorch's own, longer ones about the same
            warnings.simplefilter("ignore")
            torch.ones(1, device=f"cuda:{index}").add_(1).item()
        return None
    except (AssertionError, RuntimeError) as error:
        message = first_line(error)
    if "not compiled with CUDA" in message:
        return CudaFault(
            f"PyTorch finds no CUDA device: {torch.__version__} is a build without CUDA", OTHER_BUILD, False
        )
    if "no NVIDIA driver" in message or "No CUDA GPUs" in message:
        return CudaFault("PyTorch finds no CUDA device", "install the driver of the GPU", False)
    built = f"PyTorch {torch.__version__}"
    if "driver" in message and "too old" in message:
        return CudaFault(f"the GPU's driver is too old for {built} ({message})", f"update the driver or {OTHER_BUILD}")
    if "no kernel image" in message:
        major, minor = torch.cuda.get_device_capability(index)
        name = f"{torch.cuda.get_device_name(index)} (compute capability {major}.{minor})"
        return CudaFault(f"{built} does not support the architecture of the GPU, {name}", OTHER_BUILD)
    return CudaFault(f"the GPU cannot be used ({message})", "see what nvidia-smi reports")


def resolve_precision(precision: str, device: str) -> str:
    """Return 'bf16', 'fp16' or 'fp32'; 'auto' selects bf16 on devices that multiply it natively, else fp32.

    A warning says so if the installed cuDNN makes 16-bit convolutions slow.

    Raises:
        InputError: if fp16 is requested on a CPU.
    """
    if precision == "fp16" and device != "cuda":
        raise InputError("--precision fp16 needs a CUDA GPU; use bf16 or fp32 on a CPU")
    if precision == "auto":
        precision = "bf16" if _multiplies_bf16(device) else "fp32"
    if device == "cuda" and precision in HALF_PRECISION and distributed.is_main():
        version = torch.backends.cudnn.version() or 0
        if version in AVOIDED_CUDNN:
            print(
                f"warning: PyTorch computes 3-D convolutions in {precision} without cuDNN {version // 10000}."
                f"{version // 100 % 100}, slowly and with more memory; install another release of PyTorch "
                "(requirements.txt excludes such ones) or use --precision fp32",
                file=sys.stderr,
            )
    return precision


def autocast(device: str, precision: str) -> torch.autocast:
    """Return the context in which networks compute in ``precision`` on a type of device."""
    return torch.autocast(device, HALF_PRECISION.get(precision), enabled=precision in HALF_PRECISION)


def _multiplies_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; from the host to a GPU it is copied without a wait, through pinned memory."""
    if tensor.device.type == device.type:
        return tensor
    if device.type == "cuda":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
