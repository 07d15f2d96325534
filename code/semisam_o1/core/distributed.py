"""Distributed data parallelism. Without a process group, all functions act as one rank of one."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from semisam_o1.core.errors import InputError, Interrupted, RunError
from semisam_o1.core.memory import available_cores

if TYPE_CHECKING:
    from semisam_o1.core.terminal import ProgressFn

Item = TypeVar("Item")
Result = TypeVar("Result")

# Ranks wait for each other while one of them labels or tests; torchrun notices a dead rank at once.
TIMEOUT = datetime.timedelta(hours=2)
EXPECTED_ERRORS = (InputError, RunError, Interrupted)


def start(device: torch.device) -> torch.device:
    """Join torchrun's process group, if there is one, with this rank's device, and return the device."""
    if "LOCAL_RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # gloo beside nccl, because Python objects are sent from the CPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return device


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def exit_process(code: int) -> NoReturn:
    """End the process; a rank of several ends without the interpreter's cleanup.

    During the cleanup, threads that outlive a gloo group abort about one rank in ten (seen with torch 2.13), and
    torchrun would report a run as failed that has finished and written everything.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    from_main(None)


def from_main(value: Result) -> Result:
    """Return rank 0's ``value`` on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def on_main(work: Callable[[], Result]) -> Result:
    """Return rank 0's result of ``work`` on every rank, or raise its InputError, RunError or Interrupted there."""
    if not dist.is_initialized():
        return work()
    result, error = from_main(_attempt(work) if is_main() else (None, None))
    if error is not None:
        raise error
    return result


def _attempt(work: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    """Return the result of ``work`` and its error as a value, for ranks that wait for either."""
    try:
        return work(), None
    except EXPECTED_ERRORS as error:
        return None, error


def any_rank(flag: bool) -> bool:
    """Return whether ``flag`` is set on any rank."""
    if not dist.is_initialized():
        return flag
    count = torch.tensor(int(flag))
    dist.all_reduce(count)
    return bool(count)


def share_out(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    progress: ProgressFn | None = None,
    description: str = "",
    threads: int = 0,
) -> list[Result]:
    """Return ``[work(item) for item in items]``; every rank computes its share of the items.

    Args:
        progress: iterates over a rank's items and shows ``description``; None for no progress bar.
        threads: number of threads of a rank, each with one PyTorch thread; 0 for the calling thread alone.

    Raises:
        InputError, RunError, Interrupted: on every rank, if ``work`` or ``progress`` raised it on one.
    """

    def compute(items: Sequence[Item]) -> list[Result]:
        shown = items if progress is None else progress(items, description)
        return _in_threads(work, items, shown, threads) if threads else [work(item) for item in shown]

    if not dist.is_initialized():
        return compute(items)
    outcomes: list = [None] * world_size()
    dist.all_gather_object(outcomes, _attempt(lambda: compute(items[rank() :: world_size()])))
    for _, error in outcomes:
        if error is not None:
            raise error
    return [outcomes[i % world_size()][0][i // world_size()] for i in range(len(items))]


def cpu_threads() -> int:
    """Return the number of threads for this rank's work; beyond eight, memory is the bottleneck."""
    return max(1, min(8, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], shown: Iterable[Item], threads: int
) -> list[Result]:
    before = torch.get_num_threads()
    # One PyTorch thread per thread of the pool, so that the order of summation does not depend on their number.
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        results = pool.map(work, items)
        return [next(results) for _ in shown]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over the ranks, with gradient.

    Losses that divide sums by sums need it: after gradient averaging, N ranks then have the gradient that one rank has
    on the whole batch.
    """
    return _Sum.apply(value) if dist.is_initialized() else value


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


def average_gradients(module: nn.Module) -> None:
    """Replace every gradient of a module by its mean over the ranks."""
    if not dist.is_initialized():
        return
    for parameter in module.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()
