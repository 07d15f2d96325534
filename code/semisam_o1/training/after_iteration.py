"""What happens after a training iteration: its losses are kept, then named steps run in order.

Each step takes the trainer and the batch of the iteration. A step of your own, registered under a new name, runs after
the others; the state is saved after all of them.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semisam_o1.core import distributed
from semisam_o1.core.terminal import counted, duration
from semisam_o1.data.sampling.batches import Batch
from semisam_o1.drawing.outlines import overlay
from semisam_o1.methods import LossTerm
from semisam_o1.training import checkpoint

if TYPE_CHECKING:
    from semisam_o1.training.trainer import RoundTrainer

LOG_INTERVAL = 20  # iterations whose losses leave the device together
ESTIMATE_AFTER = 3 * LOG_INTERVAL  # iterations, without those in which everything warms up


class LossLog:
    """The losses of the iterations of a round: they leave the device a few at a time, are checked and logged."""

    def __init__(self, trainer: RoundTrainer):
        self.rate = 0.0  # iterations per second, between the last two times that losses were logged
        self.last_names: tuple[str, ...] = ()  # of the volumes in the last batch
        self._trainer = trainer
        self._pending: list[tuple[int, tuple[str, ...], dict[str, Tensor]]] = []
        self._weights: dict[str, float] = {}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure the rate from now on, after something that is not training."""
        self._clock = (time.monotonic(), self._trainer.iteration)

    def record(self, names: tuple[str, ...], terms: dict[str, LossTerm], values: dict[str, Tensor]) -> None:
        """Keep the losses of the iteration that was just finished, on the device."""
        self._pending.append((self._trainer.iteration, names, values))
        self._weights = {f"weight/{name}": term.weight for name, term in terms.items()}
        self.last_names = names

    def flush(self) -> None:
        """Bring the losses kept so far to the host at once and log them; raises RunError if one is not finite."""
        if not self._pending:
            return
        trainer, context = self._trainer, self._trainer.context
        keys = list(self._pending[0][2])
        table = torch.stack([torch.stack([values[key] for key in keys]) for _, _, values in self._pending]).cpu()
        since, before = self._clock
        self.rate = (trainer.iteration - before) / max(time.monotonic() - since, 1e-9)
        self.restart_clock()
        for (iteration, names, _), row in zip(self._pending, table.tolist(), strict=True):
            logged = {f"loss/{key}": value for key, value in zip(keys, row, strict=True)}
            bad = [key for key, value in zip(keys, row, strict=True) if not math.isfinite(value)]
            if bad:
                raise trainer.diverged(f"the loss {bad[0]} is", iteration, names)
            if iteration == trainer.iteration:
                learning_rate = trainer.optimizer.param_groups[0]["lr"]
                logged |= {"train/learning_rate": learning_rate, "train/iterations_per_second": self.rate}
                logged |= self._weights
            step = trainer.total_step() - trainer.iteration + iteration
            context.tracker.log(step, logged, round=context.round_, iteration=iteration)
        self._pending.clear()


def log_losses(trainer: RoundTrainer, batch: Batch) -> None:
    if trainer.due(LOG_INTERVAL):
        trainer.loss_log.flush()


def estimate_duration(trainer: RoundTrainer, batch: Batch) -> None:
    """Tell the user once, in the first round, how long all rounds will train."""
    options = trainer.options
    if trainer.context.round_ == 1 and trainer.iteration == ESTIMATE_AFTER < options.max_iterations:
        left = (options.num_rounds * options.max_iterations - ESTIMATE_AFTER) / trainer.loss_log.rate
        end = datetime.datetime.now() + datetime.timedelta(seconds=left)
        trainer.context.tracker.say(
            f"{trainer.loss_log.rate:.2f} iterations/s: about {duration(left)} of training are left in "
            f"{counted(options.num_rounds, 'round')}, until {end:%a %H:%M}; "
            "validation and relabeling take additional time"
        )


@torch.no_grad()
def log_images(trainer: RoundTrainer, batch: Batch) -> None:
    """Show a labeled and a pseudo-labeled patch with their label and prediction in TensorBoard."""
    if not trainer.options.log_images or not trainer.due(trainer.options.log_images):
        return
    trainer.eval_model.eval()
    with trainer.autocast():
        prediction = trainer.eval_model.logits(batch.image).argmax(1).cpu().numpy()
    trainer.eval_model.train()
    for item, kind in ((0, "labeled"), (batch.labeled, "pseudo-labeled")):
        label = batch.label[item].cpu().numpy()
        z = int((label > 0).sum(axis=(0, 1)).argmax())
        slices = (batch.image[item, 0].cpu().numpy()[..., z], label[..., z], prediction[item][..., z])
        pixels = overlay(*(plane.T for plane in slices))
        trainer.context.tracker.image(trainer.total_step(), f"patches/{kind}", pixels)


def validate(trainer: RoundTrainer, batch: Batch) -> None:
    """Validate the evaluated network and keep it where it is the best so far."""
    if trainer.validate is None or not trainer.due(trainer.options.val_interval):
        return
    context, iteration = trainer.context, trainer.iteration
    trainer.loss_log.flush()
    trainer.eval_model.eval()
    scores = trainer.validate(trainer.eval_model)
    trainer.eval_model.train()
    mean = sum(scores) / len(scores)
    logged = {f"validation/dice_class{c}": score for c, score in enumerate(scores, start=1)} | {"validation/dice": mean}
    context.tracker.log(trainer.total_step(), logged, round=context.round_, iteration=iteration)
    better = trainer.best is None or mean > trainer.best.dice
    if better:
        trainer.keep_as_best(mean)
        if distributed.is_main() and mean > 0:
            weights = trainer.best.weights
            checkpoint.save(weights, context.folder.improvement(context.round_, iteration, mean))
            checkpoint.save(weights, context.folder.round_best(context.round_))
    classes = f" ({' '.join(f'{score:.4f}' for score in scores)})" if len(scores) > 1 else ""
    compared = "best so far" if better else f"(best {trainer.best.dice:.4f} at {trainer.best.iteration})"
    context.tracker.say(
        f"round {context.round_} iteration {iteration}/{trainer.options.max_iterations}: validation Dice "
        f"{mean:.4f}{classes} {compared}"
    )
    trainer.loss_log.restart_clock()


def keep_checkpoint(trainer: RoundTrainer, batch: Batch) -> None:
    if trainer.iteration % trainer.options.save_interval == 0 and distributed.is_main():
        path = trainer.context.folder.periodic(trainer.context.round_, trainer.iteration)
        checkpoint.save(trainer.eval_model.state_dict(), path)


AFTER_ITERATION: dict[str, Callable[[RoundTrainer, Batch], None]] = {
    "log_losses": log_losses,
    "estimate_duration": estimate_duration,
    "log_images": log_images,
    "validate": validate,
    "keep_checkpoint": keep_checkpoint,
}
