"""The training loop: a network on the current pseudo-labels of one round, with any method."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from semisam_o1.core import distributed
from semisam_o1.core.device import autocast
from semisam_o1.core.errors import RunError, first_line
from semisam_o1.core.flags import AT_LEAST_0, AT_LEAST_1, option
from semisam_o1.core.seeding import derive_seed
from semisam_o1.core.terminal import progress
from semisam_o1.data.sampling.batches import Batch, BatchStream
from semisam_o1.evaluation.decision import Decision, Measured
from semisam_o1.methods import Method, MethodOptions
from semisam_o1.runs.layout import RunFolder
from semisam_o1.training import checkpoint
from semisam_o1.training.after_iteration import AFTER_ITERATION, LossLog
from semisam_o1.training.prefetch import on_device
from semisam_o1.training.stopping import StopRequest
from semisam_o1.training.tracking import Tracker

STATE_SHARE = 0.01  # of the training time, at most, is spent on saving states
OF_STATE = ("dice", "iteration", "weights")  # what is known of the best model while the round goes on
AGREE_INTERVAL = 20  # iterations between which ranks on GPUs ask each other whether to stop


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(MethodOptions):
    """Training loop."""

    num_rounds: int = option(3, "rounds of training and relabeling", within=AT_LEAST_1, resume="any")
    val_interval: int = option(200, "iterations between validations", within=AT_LEAST_1)
    save_interval: int = option(3000, "iterations between kept checkpoints", within=AT_LEAST_1, resume="any")
    log_images: int = option(
        500,
        "iterations between slice overlays in TensorBoard, beside the last one; 0: none",
        within=AT_LEAST_0,
        resume="any",
    )
    state_interval: float = option(
        60.0, "seconds between saved states, more where saving is slow; 0: every iteration", AT_LEAST_0, resume="any"
    )
    tune: str = option(
        "auto",
        "on a GPU: auto takes the fastest way to compute, found by trying for ten seconds at most; off: the reference",
        choices=("auto", "off"),
    )


@dataclass(frozen=True)
class RoundContext:
    """One round and where its results go."""

    round_: int  # from 1
    seed: int  # of the round
    precision: str  # 'fp32', 'bf16' or 'fp16' (autocast; losses stay in float32)
    num_workers: int  # processes that read patches; 0 to read them in this one
    folder: RunFolder
    tracker: Tracker
    stop: StopRequest


@dataclass
class BestModel:
    """The best model of a round by validation Dice; the last one if validation never rose above 0, or without any."""

    dice: float | None
    iteration: int
    weights: dict[str, Tensor]
    decision: Decision | None = None  # known after the round, None for the most probable class
    measured: Measured | None = None  # known after the round


class RoundTrainer:
    """Trains one round, with the steps of ``after_iteration``; its whole state can be saved and restored.

    Args:
        student: freshly initialized, on its device.
        method: built on that student.
        batches: of this rank, by iteration.
        validate: network → Dice of every foreground class, on every rank the same; None without validation volumes.
    """

    def __init__(
        self,
        student: nn.Module,
        method: Method,
        batches: BatchStream,
        validate: Callable[[nn.Module], list[float]] | None,
        options: TrainingOptions,
        context: RoundContext,
    ):
        self.student, self.method, self.batches, self.validate = student, method, batches, validate
        self.options, self.context = options, context
        self.device = next(student.parameters()).device
        self.parallel = student
        if distributed.world_size() > 1:
            # Of convolutions of 1³, whose gradient in channels last has other strides for the same order in memory.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            self.parallel = nn.parallel.DistributedDataParallel(student)
        self.optimizer = method.make_optimizer(student)
        # fp16 has gradients from 6e-8 upwards: the loss is scaled, and a step whose gradient overflows is left out.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=context.precision == "fp16")
        self.eval_model = method.eval_model(student)  # validated and kept: the student or its teacher
        self.iteration = 0  # number of finished iterations
        self.loss_log = LossLog(self)
        self.best: BestModel | None = None  # so far; None before the first validation
        self.saved_iteration: int | None = None  # in the saved state of this round
        self.next_save = time.monotonic() + options.state_interval

    def run(self) -> BestModel:
        """Train to the last iteration and return the best model.

        Raises:
            Interrupted: after saving the state, if a stop was asked for.
            RunError: if a loss or a weight is not finite, or something cannot be written.
        """
        self.student.train()
        self.loss_log.restart_clock()
        todo = range(self.iteration, self.options.max_iterations)
        with contextlib.closing(on_device(self.batches, todo, self.device, self.context.num_workers)) as batches:
            for batch in progress(batches, f"round {self.context.round_}", len(todo), "iteration"):
                self.train_step(batch)
                # First: where another process has died this fails, while a value from a GPU would be waited for.
                stop = self._stop_requested()
                for step in AFTER_ITERATION.values():
                    step(self, batch)
                self._save_where_due(stop)
        if self.validate is None or self.best is None or self.best.dice <= 0:
            self.keep_as_best(None if self.validate is None else 0.0)
        self.save_state()
        return self.best

    def train_step(self, batch: Batch) -> None:
        """Train on one batch."""
        t = self.iteration
        # Dropout reads the global generator: seeded anew, iteration t is the same however it was reached.
        torch.manual_seed(derive_seed(self.context.seed, self.context.round_, t, distributed.rank()))
        with self.autocast():
            terms = self.method.losses(self.parallel, batch, t)
        loss = sum(term.weight * term.value for term in terms.values())
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for group in self.optimizer.param_groups:
            group["lr"] = self.method.learning_rate(t)
        with self.autocast():
            extra = self.method.after_step(self.student, batch, t)
        self.iteration = t + 1
        values = {"total": loss.detach()} | {name: term.value.detach() for name, term in terms.items()} | extra
        self.loss_log.record(batch.names, terms, values)

    def autocast(self) -> torch.autocast:
        """Return the context in which networks compute; losses stay in float32."""
        return autocast(self.device.type, self.context.precision)

    def total_step(self) -> int:
        """Return the number of finished iterations over all rounds."""
        return (self.context.round_ - 1) * self.options.max_iterations + self.iteration

    def due(self, interval: int) -> bool:
        """Return whether something that happens every ``interval`` iterations, and after the last, is due."""
        return self.iteration % interval == 0 or self.iteration == self.options.max_iterations

    def keep_as_best(self, dice: float | None) -> None:
        """Make the evaluated network, as it is now, the best model of the round."""
        weights = {key: value.detach().to("cpu", copy=True) for key, value in self.eval_model.state_dict().items()}
        self.best = BestModel(dice, self.iteration, weights)

    def save_state(self) -> None:
        """Save the state, once the losses and weights that led to it are known to be finite.

        Raises RunError if they are not, or the state cannot be written; the one saved before stays.
        """
        started = time.monotonic()
        self.loss_log.flush()
        if distributed.is_main():
            if not torch.stack([torch.isfinite(p).all() for p in self.student.parameters()]).all():
                raise self.diverged("the network's weights are", self.iteration, self.loss_log.last_names)
            path = self.context.folder.state
            checkpoint.save(self.state_dict(), path, keep=checkpoint.previous(path))
        self.saved_iteration = self.iteration
        now, interval = time.monotonic(), self.options.state_interval
        self.next_save = now + (max(interval, (now - started) / STATE_SHARE) if interval else 0)

    def _save_where_due(self, stop: bool) -> None:
        """Save the state, last of all so that it contains what the steps did; the end of the round saves its own."""
        if self.iteration == self.options.max_iterations:
            return
        if stop or time.monotonic() >= self.next_save:
            self.save_state()
        if stop:
            done = f"iteration {self.iteration} of round {self.context.round_}"
            raise self.context.stop.interruption(f"the state after {done} is saved")

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to resume: random numbers and batches are functions of seed and iteration."""
        return {
            "round": self.context.round_,
            "seed": self.context.seed,
            "iteration": self.iteration,
            "student": self.student.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best and {key: getattr(self.best, key) for key in OF_STATE},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned; raises RunError if it is not of this round, network and method."""
        try:
            if state["seed"] != self.context.seed or not 0 <= state["iteration"] <= self.options.max_iterations:
                raise ValueError(f"seed {state['seed']}, iteration {state['iteration']}")
            self.student.load_state_dict(state["student"])
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state.get("scaler", {}))
            self.best = BestModel(*(state["best"][key] for key in OF_STATE)) if state["best"] else None
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            path, reason = self.context.folder.state, first_line(error)
            remedy = "delete it and the one before it to start the round anew"
            raise RunError(f"{path} does not fit this run ({reason}); {remedy}") from error
        self.iteration = self.saved_iteration = state["iteration"]

    def diverged(self, what: str, iteration: int, volumes: Sequence[str]) -> RunError:
        """Return the error of a loss or weight that is not finite."""
        saved = "no state of this round was saved before"
        if self.saved_iteration is not None:
            saved = f"the state saved after iteration {self.saved_iteration} is kept"
        return RunError(
            f"round {self.context.round_}, iteration {iteration}: {what} not finite; the batch came from "
            f"{', '.join(volumes)}; {saved}. Look at those volumes, or start anew with a lower --base_lr or with "
            "--precision fp32"
        )

    def _stop_requested(self) -> bool:
        """Return whether any rank was asked to stop; on GPUs, ranks wait for each other to agree only now and then."""
        if distributed.world_size() > 1 and self.device.type == "cuda" and self.iteration % AGREE_INTERVAL:
            return False
        return distributed.any_rank(self.context.stop.requested)
