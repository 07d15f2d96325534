"""The losses of an iteration: they leave the device a few iterations at a time, are checked and logged."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semisam_o1.methods import LossTerm

if TYPE_CHECKING:
    from semisam_o1.training.trainer import RoundTrainer


class LossLog:
    """Collects the losses of a round's iterations.

    Attributes:
        last_names: names of the volumes in the last batch.
    """

    def __init__(self, trainer: RoundTrainer):
        self.last_names: tuple[str, ...] = ()
        self._trainer = trainer
        self._pending: list[tuple[int, tuple[str, ...], dict[str, Tensor]]] = []
        self._weights: dict[str, float] = {}
        self._clock = (time.monotonic(), 0)  # when, and after which iteration, the rate is measured from

    def restart_clock(self) -> None:
        self._clock = (time.monotonic(), self._trainer.iteration)

    def pause(self, seconds: float) -> None:
        """Exclude time that was not spent on training from the rate."""
        self._clock = (self._clock[0] + seconds, self._clock[1])

    def record(self, names: tuple[str, ...], terms: dict[str, LossTerm], values: dict[str, Tensor]) -> None:
        """Keep the losses of the iteration that was just finished, on the device."""
        self._pending.append((self._trainer.iteration, names, values))
        self._weights = {f"weight/{name}": term.weight for name, term in terms.items()}
        self.last_names = names

    def flush(self) -> None:
        """Bring the losses kept so far to the host at once, check and log them.

        Raises:
            RunError: if one is not finite.
        """
        if not self._pending:
            return
        trainer, context = self._trainer, self._trainer.context
        keys = list(self._pending[0][2])
        table = torch.stack([torch.stack([values[key] for key in keys]) for _, _, values in self._pending]).cpu()
        rate = (trainer.iteration - self._clock[1]) / max(time.monotonic() - self._clock[0], 1e-9)
        self.restart_clock()
        for (iteration, names, _), row in zip(self._pending, table.tolist(), strict=True):
            logged = {f"loss/{key}": value for key, value in zip(keys, row, strict=True)}
            bad = [key for key, value in zip(keys, row, strict=True) if value - value != 0]
            if bad:
                raise trainer.diverged(f"the loss {bad[0]} is", iteration, names)
            if iteration == trainer.iteration:
                logged |= self._weights
                logged["train/learning_rate"] = trainer.optimizer.param_groups[0]["lr"]
                logged["train/iterations_per_second"] = rate
            step = trainer.total_step() - trainer.iteration + iteration
            context.tracker.log(step, logged, round=context.round_, iteration=iteration)
        self._pending.clear()
