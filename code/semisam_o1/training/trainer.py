"""The one training loop: a network from scratch on the current pseudo-labels, with any method."""

from __future__ import annotations

import contextlib
import datetime
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from semisam_o1.core import distributed
from semisam_o1.core.errors import RunError
from semisam_o1.core.progress import duration, progress
from semisam_o1.core.seeding import derive_seed
from semisam_o1.data.sampling.batches import Batch, BatchStream
from semisam_o1.drawing.outlines import overlay
from semisam_o1.methods import LossTerm, Method
from semisam_o1.runs.layout import RunFolder
from semisam_o1.training import checkpoint
from semisam_o1.training.prefetch import on_device
from semisam_o1.training.stopping import StopRequest
from semisam_o1.training.tracking import Tracker

ESTIMATE_AFTER = 50  # iterations, of which the first tenth warm up
LOG_INTERVAL = 20  # iterations whose losses leave the device together
STATE_SHARE = 0.01  # of the time, at most, goes into saving states


@dataclass(frozen=True)
class RoundSettings:
    """What the loop needs to know about one round.

    Attributes:
        round_: from 1, of ``rounds``.
        precision: 'fp32' or 'bf16' (autocast; losses stay in float32).
        val_interval, save_interval, log_images: in iterations.
        state_interval: seconds between saved states at the least; 0: every iteration.
        num_workers: processes that read patches; None where volumes are in memory.
    """

    round_: int
    rounds: int
    max_iterations: int
    precision: str
    val_interval: int
    save_interval: int
    state_interval: float
    log_images: int
    num_workers: int | None
    seed: int

    def step(self, iteration: int) -> int:
        """Return how many iterations of all rounds are done after ``iteration`` of this one."""
        return (self.round_ - 1) * self.max_iterations + iteration


@dataclass
class Best:
    """The best model of a round by validation Dice; the last one if validation never rose above 0."""

    dice: float
    iteration: int
    weights: dict[str, Tensor]


class RoundTrainer:
    """Trains one round; its whole state can be saved and taken up again.

    Args:
        student: freshly initialized, on its device.
        method: built on that student.
        batches: of this rank, by iteration.
        validate: network → Dice of every foreground class, on every rank the same.
    """

    def __init__(
        self,
        student: nn.Module,
        method: Method,
        batches: BatchStream,
        settings: RoundSettings,
        validate: Callable[[nn.Module], list[float]],
        folder: RunFolder,
        tracker: Tracker,
        stop: StopRequest,
    ):
        self.student, self.method, self.batches, self.settings = student, method, batches, settings
        self.validate, self.folder, self.tracker, self.stop = validate, folder, tracker, stop
        self.device = next(student.parameters()).device
        self.parallel = student
        if distributed.world_size() > 1:
            # Of convolutions of 1³, whose gradient in channels last has other strides for the same order in memory.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            self.parallel = nn.parallel.DistributedDataParallel(student)
        self.optimizer = method.make_optimizer(student)
        self.eval_model = method.eval_model(student)
        self.iteration = 0  # iterations that are done
        self.best: Best | None = None
        self._pending: list[tuple[int, tuple[str, ...], dict[str, Tensor]]] = []
        self._weights: dict[str, float] = {}
        self._names: tuple[str, ...] = ()  # of the volumes in the last batch
        self._save_at = time.monotonic() + settings.state_interval
        self._kept: int | None = None  # iterations done in the saved state of this round
        self._clock = (time.monotonic(), 0)
        self._warm: float | None = None  # when the iterations began that the estimate is made from

    def run(self) -> Best:
        """Train to the last iteration and return the best model.

        Raises:
            Interrupted: after saving the state, if a stop was asked for.
            RunError: if a loss or a weight is not finite, or something cannot be written.
        """
        settings = self.settings
        self.student.train()
        self._clock = (time.monotonic(), self.iteration)
        todo = range(self.iteration, settings.max_iterations)
        with contextlib.closing(on_device(self.batches, todo, self.device, settings.num_workers)) as batches:
            for batch in progress(batches, f"round {settings.round_}", len(todo), "iteration"):
                self._iteration(batch)
        if self.best is None or self.best.dice <= 0:
            self.best = Best(0.0, self.iteration, _copy(self.eval_model.state_dict()))
        self.save_state()
        return self.best

    def _iteration(self, batch: Batch) -> None:
        """Train on one batch, and do what is due after it."""
        settings = self.settings
        self._train_step(batch)
        # First: where another process has died this fails, while what is fetched from a GPU would be waited for.
        asked = self._stop_asked()
        done = self.iteration
        if settings.round_ == 1:
            self._estimate(done)
        if done % LOG_INTERVAL == 0 or done == settings.max_iterations:
            self._flush()
        if settings.log_images and done % settings.log_images == 0:
            self._log_images(batch)
        if done % settings.val_interval == 0 or done == settings.max_iterations:
            self._validate()
        if done % settings.save_interval == 0 and distributed.is_main():
            checkpoint.save(self.eval_model.state_dict(), self.folder.periodic(settings.round_, done))
        # Last, so that a state never lacks a validation that its iteration is due.
        if done == settings.max_iterations:
            return
        if asked or time.monotonic() >= self._save_at:
            self.save_state()
        if asked:
            raise self.stop.interruption(f"the state after iteration {done} of round {settings.round_} is saved")

    def _estimate(self, done: int) -> None:
        """Say once, in the first round, how long all rounds will train."""
        settings, warm_up = self.settings, ESTIMATE_AFTER // 10
        if done == warm_up:
            self._warm = time.monotonic()
        if done == ESTIMATE_AFTER < settings.max_iterations and self._warm is not None:
            pace = (time.monotonic() - self._warm) / (done - warm_up)
            left = pace * (settings.rounds * settings.max_iterations - done)
            end = datetime.datetime.now() + datetime.timedelta(seconds=left)
            self.tracker.say(
                f"{1 / pace:.2f} iterations/s: about {duration(left)} of training are left in {settings.rounds} "
                f"rounds, until {end:%a %H:%M}; validation and relabeling come on top"
            )

    def _train_step(self, batch: Batch) -> None:
        t, settings = self.iteration, self.settings
        # Dropout reads the global generator: seeded anew, iteration t is the same however it was reached.
        torch.manual_seed(derive_seed(settings.seed, settings.round_, t, distributed.rank()))
        with autocast(self.device, settings.precision):
            terms = self.method.losses(self.parallel, batch, t)
        loss = total(terms)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for group in self.optimizer.param_groups:
            group["lr"] = self.method.learning_rate(t)
        with autocast(self.device, settings.precision):
            extra = self.method.after_step(self.student, batch, t)
        values = {
            "total": loss.detach(),
            **{name: term.value.detach() for name, term in terms.items()},
            **extra,
        }
        self._pending.append((t, batch.names, values))
        self._names = batch.names
        self._weights = {name: term.weight for name, term in terms.items()}
        self.iteration = t + 1

    def _flush(self) -> None:
        """Bring the losses of the last iterations to the host at once, check and log them."""
        if not self._pending:
            return
        names = list(self._pending[0][2])
        table = torch.stack([torch.stack([values[n] for n in names]) for _, _, values in self._pending]).cpu()
        settings = self.settings
        now, before = time.monotonic(), self._clock
        rate = (self.iteration - before[1]) / max(now - before[0], 1e-9)
        self._clock = (now, self.iteration)
        for (t, volumes, _), row in zip(self._pending, table.tolist(), strict=True):
            bad = [name for name, value in zip(names, row, strict=True) if value - value != 0]
            if bad:
                raise self._diverged(f"the loss {bad[0]} is", t + 1, volumes)
            logged = {f"loss/{name}": value for name, value in zip(names, row, strict=True)}
            if t == self._pending[-1][0]:
                logged |= {f"weight/{name}": weight for name, weight in self._weights.items()}
                logged["train/learning_rate"] = self.optimizer.param_groups[0]["lr"]
                logged["train/iterations_per_second"] = rate
            self.tracker.log(settings.step(t + 1), logged, round=settings.round_, iteration=t + 1)
        self._pending.clear()

    def _validate(self) -> None:
        settings = self.settings
        self._flush()
        started = time.monotonic()
        self.eval_model.eval()
        scores = self.validate(self.eval_model)
        self.eval_model.train()
        mean = sum(scores) / len(scores)
        logged = {f"validation/dice_class{c}": score for c, score in enumerate(scores, start=1)}
        self.tracker.log(
            settings.step(self.iteration), logged | {"validation/dice": mean},
            round=settings.round_, iteration=self.iteration,
        )  # fmt: skip
        better = self.best is None or mean > self.best.dice
        if better:
            self.best = Best(mean, self.iteration, _copy(self.eval_model.state_dict()))
            if distributed.is_main() and mean > 0:
                checkpoint.save(self.best.weights, self.folder.improvement(settings.round_, self.iteration, mean))
                checkpoint.save(self.best.weights, self.folder.round_best(settings.round_))
        classes = " ".join(f"{score:.4f}" for score in scores) if len(scores) > 1 else ""
        self.tracker.say(
            f"round {settings.round_} iteration {self.iteration}/{settings.max_iterations}: validation Dice {mean:.4f}"
            + (f" ({classes})" if classes else "")
            + (" best so far" if better else f" (best {self.best.dice:.4f} at {self.best.iteration})")
        )
        # Validation is not training time.
        self._clock = (self._clock[0] + time.monotonic() - started, self._clock[1])

    @torch.no_grad()
    def _log_images(self, batch: Batch) -> None:
        self.eval_model.eval()
        with autocast(self.device, self.settings.precision):
            prediction = self.eval_model.logits(batch.image).argmax(1).cpu().numpy()
        self.eval_model.train()
        for item, kind in ((0, "labeled"), (batch.labeled, "pseudo-labeled")):
            label = batch.label[item].cpu().numpy()
            z = int((label > 0).sum(axis=(0, 1)).argmax())
            slices = (batch.image[item, 0].cpu().numpy()[..., z], label[..., z], prediction[item][..., z])
            pixels = overlay(*(part.T for part in slices))
            self.tracker.image(self.settings.step(self.iteration), f"patches/{kind}", pixels)

    def _diverged(self, what: str, iteration: int, volumes: tuple[str, ...]) -> RunError:
        kept = "no state of this round was saved before"
        if self._kept is not None:
            kept = f"the state saved after iteration {self._kept} is kept"
        return RunError(
            f"round {self.settings.round_}, iteration {iteration}: {what} not finite; the batch came from "
            f"{', '.join(volumes)}; {kept}. Look at those volumes, or start anew with a lower --base_lr or with "
            "--precision fp32"
        )

    def _stop_asked(self) -> bool:
        # On GPUs ranks agree now and then only: asking costs them a wait for each other.
        if distributed.world_size() > 1 and self.device.type == "cuda" and self.iteration % LOG_INTERVAL:
            return False
        return distributed.any_rank(self.stop.requested)

    def save_state(self) -> None:
        """Save the state, once the losses and weights that led to it are known to be finite.

        Raises:
            RunError: if they are not, or the state cannot be written; the one saved before stays.
        """
        started = time.monotonic()
        self._flush()
        if distributed.is_main():
            if not torch.stack([torch.isfinite(p).all() for p in self.student.parameters()]).all():
                raise self._diverged("the network's weights are", self.iteration, self._names)
            checkpoint.save_state(self.state_dict(), self.folder.state)
        self._kept = self.iteration
        now, interval = time.monotonic(), self.settings.state_interval
        self._save_at = now + (max(interval, (now - started) / STATE_SHARE) if interval else 0)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on: random numbers and batches are functions of seed and iteration."""
        best = self.best and {
            "dice": self.best.dice,
            "iteration": self.best.iteration,
            "weights": self.best.weights,
        }
        return {
            "round": self.settings.round_,
            "seed": self.settings.seed,
            "iteration": self.iteration,
            "student": self.student.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned.

        Raises:
            RunError: if it is not of this round, network and method.
        """
        try:
            if state["seed"] != self.settings.seed or not 0 <= state["iteration"] <= self.settings.max_iterations:
                raise ValueError(f"seed {state['seed']}, iteration {state['iteration']}")
            self.student.load_state_dict(state["student"])
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best = Best(**state["best"]) if state["best"] else None
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f"{self.folder.state} does not fit this run ({reason}); delete it and the one before it to begin the "
                "round anew"
            ) from error
        self.iteration = self._kept = state["iteration"]


def total(terms: dict[str, LossTerm]) -> Tensor:
    """Return the loss: the sum of weight · value."""
    return sum(term.weight * term.value for term in terms.values())


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().to("cpu", copy=True) for key, value in weights.items()}
