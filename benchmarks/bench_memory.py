"""Peak GPU memory of a training step of every method.

    python benchmarks/bench_memory.py                       measured on the GPU; without one, computed
    python benchmarks/bench_memory.py --sides 96 128 --batches 2 4 --classes 2

It is computed by tensors without values on PyTorch's device 'meta': all storages that live at one time are added up.
cuDNN's workspaces and what the allocator cannot use are not in it.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import timing
from semisam_o1.core.device import OutOfMemorySafeBatcher, autocast
from semisam_o1.data.sampling.batches import Batch
from semisam_o1.methods import METHODS, MethodOptions, mean_teacher
from semisam_o1.networks import build_network


class LivingStorages(TorchDispatchMode):
    """Adds up the bytes of all storages that an operation returned and that live, and keeps the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.living: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.living = {key: pair for key, pair in self.living.items() if not pair[0].expired()}
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.living.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.peak = max(self.peak, sum(size for _, size in self.living.values()))
        return result


class AsOnGpu(TorchFunctionMode):
    """What a GPU does to the operations of these networks: a mask of dropout has one byte, autocast changes types."""

    LOW, HIGH = (torch.conv3d, F.conv3d, F.linear), (F.interpolate,)

    def __init__(self, half: bool):
        super().__init__()
        self.half = half

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.dropout:
            return torch.native_dropout(args[0], kwargs["p"], kwargs["training"])[0]
        dtype = torch.bfloat16 if func in self.LOW else torch.float32 if func in self.HIGH else None
        if self.half and dtype is not None:
            args = tuple(arg.to(dtype) if isinstance(arg, Tensor) else arg for arg in args)
        return func(*args, **kwargs)


def step(name: str, device: str, side: int, items: int, classes: int, precision: str) -> Iterator[None]:
    """Make ready, train on two batches and pause after each."""
    OutOfMemorySafeBatcher.MAX_ELEMENTS["meta"] = OutOfMemorySafeBatcher.MAX_ELEMENTS["cuda"]
    on_gpu = device == "cuda"
    if not on_gpu:
        mean_teacher.torch_generator = lambda *seed, device: None
        torch.is_autocast_enabled = lambda kind: False
    with torch.device(device):
        student = build_network(METHODS[name].network, classes).train()
        method = METHODS[name](student, MethodOptions(max_iterations=100, num_classes=classes))
        image = torch.empty(items, 1, *(side,) * 3)
        batch = Batch(image, torch.zeros_like(image[:, 0], dtype=torch.uint8), items // 2, ("",) * items)
    optimizer = method.make_optimizer(student)
    for t in (50, 51):
        as_trained = autocast(device, precision) if on_gpu else AsOnGpu(precision != "fp32")
        with as_trained:
            terms = method.losses(student, batch, t)
        loss = sum(term.weight * term.value for term in terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with as_trained:
            method.after_step(student, batch, t)
        del terms, loss
        yield


def peak(name: str, side: int, items: int, classes: int, precision: str) -> float:
    """Return the GiB at the peak of a step whose optimizer has its moments."""
    if torch.cuda.is_available():
        for _ in step(name, "cuda", side, items, classes, precision):
            pass
        return torch.cuda.max_memory_allocated() / 2**30
    with LivingStorages() as storages:
        for _ in step(name, "meta", side, items, classes, precision):
            pass
    return storages.peak / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=tuple(METHODS))
    parser.add_argument("--sides", nargs="+", type=int, default=[128], help="voxels a side of a patch")
    parser.add_argument("--batches", nargs="+", type=int, default=[2, 4], help="items of a batch")
    parser.add_argument("--classes", type=int, default=2)
    arguments = parser.parse_args()
    print(timing.machine(), "measured" if torch.cuda.is_available() else "computed, not measured")
    cases = itertools.product(arguments.methods, arguments.sides, arguments.batches, ("bf16", "fp32"))
    for name, side, items, precision in cases:
        gib = timing.in_process(peak, name, side, items, arguments.classes, precision)
        print(
            f"{name:5} {precision} {items} patches of {side}³, {arguments.classes} classes: {gib:.2f} GiB", flush=True
        )


if __name__ == "__main__":
    main()
