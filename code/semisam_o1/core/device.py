"""Device, precision and the device's memory: which are used, whether they work here, and how much fits."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from semisam_o1.core import distributed
from semisam_o1.core.errors import InputError, first_line, is_out_of_memory

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
HALF_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}
OTHER_BUILD = "install PyTorch for CUDA 12: pip install torch --index-url https://download.pytorch.org/whl/cu126"
# Versions of cuDNN that PyTorch does not use for 3-D convolutions in 16 bits, since they compute some of them wrong.
AVOIDED_CUDNN = range(90800, 91500)


class CudaFault(NamedTuple):
    """Why CUDA cannot be used."""

    reason: str  # a clause
    remedy: str  # what makes CUDA work, a clause
    unusable: bool = True  # whether there is a GPU or its driver, so that the user expects it to be used


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

    A warning says so if the installed cuDNN makes 16-bit convolutions slow. Raises InputError for fp16 on a CPU.
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


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; from the host to a GPU it is copied without a wait, through pinned memory."""
    if tensor.device.type == device.type:
        return tensor
    if device.type == "cuda":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class OutOfMemorySafeBatcher:
    """Concatenates batches (B, ...) for one call of a function, fewer of them after the GPU ran out of memory."""

    # Elements per call that keep all cores or a GPU busy; more would only take memory.
    MAX_ELEMENTS: ClassVar[dict[str, int]] = {"cpu": 2**20, "cuda": 2**24}

    def __init__(self) -> None:
        self.max_batches = sys.maxsize  # per call, as far as memory is known to allow

    def batches_per_call(self, remaining: int, elements: int, device: str) -> int:
        """Return how many of the remaining batches, of so many elements each, share a call on a type of device."""
        busy = max(1, self.MAX_ELEMENTS.get(device, self.MAX_ELEMENTS["cpu"]) // elements)
        calls = -(-remaining // min(busy, self.max_batches))
        return -(-remaining // calls)  # equal calls rather than full ones

    def __call__(self, function: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the result of every batch in order.

        Args:
            function: maps a batch to as many results, each item independently. A function that draws random numbers
                draws different ones after memory ran out.
            batches: at least one, all on one device and of about the same size; RuntimeError if a single one does
                not fit.
        """
        done, first = 0, batches[0]
        while done < len(batches):
            count = self.batches_per_call(len(batches) - done, first.numel(), first.device.type)
            chunk = batches[done : done + count]
            results = _try_batches(function, chunk)
            if results is None:
                self.max_batches = len(chunk) // 2  # later calls start with a size that fits
            else:
                yield from results
                done += len(chunk)


def _try_batches(function: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """Return the results, None if memory ran out and a retry with fewer batches is possible."""
    try:
        return function(torch.cat(tuple(batches))).split([len(batch) for batch in batches])
    except RuntimeError as error:
        if len(batches) == 1 or not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # outside of the handler: the exception refers to what was allocated
    return None
