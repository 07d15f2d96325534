"""One process or several: everything here works without a process group, as one rank of one."""

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

if TYPE_CHECKING:
    from semisam_o1.core.progress import ProgressFn

Item = TypeVar("Item")
Result = TypeVar("Result")

# Ranks wait for each other while one of them labels or tests; a dead rank is noticed by torchrun at once.
TIMEOUT = datetime.timedelta(hours=2)


def start(device_type: str) -> torch.device:
    """Join the process group that torchrun describes (if any) and return this rank's device."""
    if "LOCAL_RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return torch.device(device_type)
    device = torch.device(device_type)
    if device_type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # gloo beside nccl: Python objects travel over the CPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo", timeout=TIMEOUT)
    return device


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def exit_process(code: int) -> NoReturn:
    """End the process, a rank of several without tearing the interpreter down.

    There, threads that outlive a gloo group abort one rank in ten or so (seen with torch 2.13), when
    everything has been done and written; torchrun would call the run failed.
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
    if dist.is_initialized():
        from_main(None)


def from_main(value: Result) -> Result:
    """Return rank 0's ``value`` on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def on_main(work: Callable[[], Result]) -> Result:
    """Return what rank 0 gets from ``work`` on every rank; what it raises, every rank raises."""
    if not dist.is_initialized():
        return work()
    outcome: tuple[Result | None, Exception | None] = (None, None)
    if is_main():
        try:
            outcome = (work(), None)
        except (InputError, RunError, Interrupted) as error:
            outcome = (None, error)
    result, error = from_main(outcome)
    if error is not None:
        raise error
    return result


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
    """Return ``[work(item) for item in items]``, every rank having done its share.

    Args:
        progress: iterates over a rank's items, with ``description``; None: in silence.
        threads: of a rank, each computing with one thread of PyTorch's own, whatever their number; 0: no others.

    Raises:
        InputError, RunError, Interrupted: on every rank, if ``work`` or ``progress`` raised it on one.
    """

    def compute(items: Sequence[Item]) -> list[Result]:
        shown = items if progress is None else progress(items, description)
        return _in_threads(work, items, shown, threads) if threads else [work(item) for item in shown]

    if not dist.is_initialized():
        return compute(items)
    own, stopped = [], None
    try:
        own = compute(items[rank() :: world_size()])
    except (InputError, RunError, Interrupted) as error:  # the others wait for this rank
        stopped = error
    outcomes: list = [None] * world_size()
    dist.all_gather_object(outcomes, (own, stopped))
    for _, error in outcomes:
        if error is not None:
            raise error
    return [outcomes[i % world_size()][0][i // world_size()] for i in range(len(items))]


def cpu_threads() -> int:
    """Return how many threads this rank may keep busy: memory is short before more than eight are of use."""
    return max(1, min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], shown: Iterable[Item], threads: int
) -> list[Result]:
    before = torch.get_num_threads()
    # PyTorch counts threads per thread: one for those of the pool, and none of another order of sums.
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        results = pool.map(work, items)
        return [next(results) for _ in shown]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over the ranks, with gradient.

    Losses that divide sums by sums need it: with the gradients averaged afterwards, N ranks then
    compute what one rank computes on the whole batch.
    """
    if not dist.is_initialized():
        return value
    return _Sum.apply(value)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def average_gradients(module: nn.Module) -> None:
    """Replace every gradient of a module by its mean over the ranks."""
    if not dist.is_initialized():
        return
    for parameter in module.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()
