"""The fastest way to compute a training step on this GPU, found by trying: nobody can tell from elsewhere.

Candidates are tried one choice after another, on steps of the real shapes with made-up data. One that computes
something else than the reference, or does not run, is not used.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semisam_o1.core.device import autocast
from semisam_o1.core.errors import first_line, is_out_of_memory
from semisam_o1.core.seeding import torch_generator
from semisam_o1.core.terminal import text_table
from semisam_o1.data.sampling.batches import Batch
from semisam_o1.methods import METHODS, MethodOptions
from semisam_o1.networks.kernels import Kernels
from semisam_o1.networks.layers import NORMS

BUDGET = 10.0  # seconds, for all candidates
STEPS = 3  # that are timed, after one that is not
MIN_GAIN = 0.03  # of the time of a step: less may be noise
# Relative deviation of a gradient that rounding explains; 6e-5 and 0.17 were seen, and 1 is no relation at all.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.3, "fp16": 0.3}
LOSS_SCALE = 2.0**10  # keeps small gradients in fp16

Choice = Callable[[Kernels], Sequence[Kernels]]
"""The alternatives to the best candidate so far."""


class StepTrial(Protocol):
    """Training steps that can be computed in different ways."""

    def gradient(self, kernels: Kernels) -> Tensor:
        """Return the gradient of one step without dropout, flat."""

    def seconds(self, kernels: Kernels) -> float:
        """Return how long a step takes."""


@dataclass(frozen=True)
class Attempt:
    """A candidate and what came of it; ``seconds`` of a step is None if it was not timed."""

    kernels: Kernels
    seconds: float | None
    remark: str = ""


def choices(backbone: str, deterministic: bool) -> list[Choice]:
    """Return the choices for a method, in the order in which they are made."""
    found: list[Choice] = [
        lambda best: [replace(best, layout="channels_last")],
        lambda best: [replace(best, norm=norm) for norm in NORMS],
    ]
    if backbone == "uamt":
        found.append(lambda best: [replace(best, joined=False)])
    if not deterministic:  # cuDNN's search ends differently from run to run
        found.append(lambda best: [replace(best, benchmark=True)])
    return found


def fastest(
    trial: StepTrial,
    choices: Sequence[Choice],
    tolerance: float,
    clock: Callable[[], float] = time.monotonic,
    budget: float = BUDGET,
) -> tuple[Kernels, list[Attempt]]:
    """Return the fastest candidate that agrees with the reference, and all attempts in order.

    Raises:
        RuntimeError: if the reference itself does not run, as it would not in training.
    """
    started = clock()
    best = Kernels()
    reference, shortest = trial.gradient(best), trial.seconds(best)
    attempts, longest = [Attempt(best, shortest, "reference")], clock() - started
    for alternatives in choices:
        before = best
        for kernels in alternatives(before):
            begun = clock()
            if begun + longest > started + budget:
                attempts.append(Attempt(kernels, None, "not tried: time is up"))
                continue
            attempts.append(_try(trial, kernels, reference, tolerance))
            longest = max(longest, clock() - begun)
            seconds = attempts[-1].seconds
            if seconds is not None and seconds < (1 - MIN_GAIN) * shortest:
                best, shortest = kernels, seconds
    return best, attempts


def _try(trial: StepTrial, kernels: Kernels, reference: Tensor, tolerance: float) -> Attempt:
    try:
        deviation = float((trial.gradient(kernels) - reference).norm() / reference.norm())
        if not deviation <= tolerance:
            return Attempt(kernels, None, f"not used: deviates by {deviation:.1e}")
        return Attempt(kernels, trial.seconds(kernels), f"deviates by {deviation:.1e}")
    except RuntimeError as error:
        remark = f"not used: {'out of memory' if is_out_of_memory(error) else first_line(error)}"
    torch.cuda.empty_cache()  # outside of the handler: the exception refers to what was allocated
    return Attempt(kernels, None, remark)


def table(attempts: Sequence[Attempt], best: Kernels) -> str:
    """Return the attempts as a table; a star marks the fastest."""
    rows = [("computed with", "ms per step", "")]
    for kernels, seconds, remark in ((a.kernels, a.seconds, a.remark) for a in attempts):
        time_ = "–" if seconds is None else f"{1000 * seconds:.1f}"
        rows.append((f"{kernels}{' *' if kernels == best else '  '}", time_, remark))
    return "\n".join(text_table(rows))


def _make_batch(shape: Sequence[int], num_classes: int, labeled: int) -> Batch:
    """Return smooth images, and labels that follow them: gradients of mere noise would be rounding errors."""
    generator = torch_generator(1)
    coarse = torch.randn(*shape[:2], *(max(side // 8, 1) for side in shape[2:]), generator=generator)
    image = F.interpolate(coarse, tuple(shape[2:]), mode="trilinear")
    label = (2 * image[:, 0]).clamp(0, num_classes - 1).to(torch.uint8)
    return Batch(image, label, labeled, ("made up",) * shape[0])


class TrainingTrial:
    """A ``StepTrial`` of a network and method of its own; those of the run stay as they are.

    Args:
        student: a network of its own on the CPU.
        backbone: as ``--backbone`` names it.
        shape: of the images of a batch, (B, 1, w, h, d).
        labeled: number of labeled items.
    """

    def __init__(
        self,
        student: nn.Module,
        backbone: str,
        options: MethodOptions,
        shape: Sequence[int],
        labeled: int,
        device: torch.device,
        precision: str,
    ):
        self.student = student.to(device).train()
        self.method = METHODS[backbone](self.student, options, seed=0)
        self.optimizer = self.method.make_optimizer(self.student)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # all candidates are tried with the same weights
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._state = copy.deepcopy(self.method.state_dict())
        self.device, self.precision, self.t = device, precision, options.max_iterations // 2
        self.batch = _make_batch(shape, options.num_classes, labeled).to(device)

    def gradient(self, kernels: Kernels) -> Tensor:
        """Return the gradient of one step without dropout and without steep losses, flat."""
        self._use(kernels)
        self.method.load_state_dict(self._state)
        with self._without_dropout():
            self._backward(lambda loss: LOSS_SCALE * loss, without=self.method.steep)
        return torch.cat([p.grad.flatten() for p in self.student.parameters() if p.grad is not None]).float()

    def seconds(self, kernels: Kernels) -> float:
        self._use(kernels)
        self._step()
        self._wait()
        started = time.perf_counter()
        for _ in range(STEPS):
            self._step()
        self._wait()
        return (time.perf_counter() - started) / STEPS

    def _use(self, kernels: Kernels) -> None:
        torch.backends.cudnn.benchmark = kernels.benchmark
        kernels.apply(self.student)
        self.method.use_kernels(kernels)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _step(self) -> None:
        self._backward(self.scaler.scale)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with self._autocast():
            self.method.after_step(self.student, self.batch, self.t)

    def _backward(self, scale: Callable[[Tensor], Tensor], without: tuple[str, ...] = ()) -> None:
        self.optimizer.zero_grad()
        with self._autocast():
            terms = self.method.losses(self.student, self.batch, self.t)
        used = [term for name, term in terms.items() if not name.endswith(without)]
        scale(sum(term.weight * term.value for term in used)).backward()

    def _autocast(self) -> torch.autocast:
        return autocast(self.device.type, self.precision)

    @contextlib.contextmanager
    def _without_dropout(self) -> Iterator[None]:
        modules = [self.student, *(m for m in vars(self.method).values() if isinstance(m, nn.Module))]
        for module in modules:
            module.eval()
        yield
        for module in modules:
            module.train()
