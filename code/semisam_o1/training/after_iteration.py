"""What happens after a training iteration, as named steps in order.

Each takes the trainer and the batch of the iteration. A step of your own, registered under a new name, runs after the
others; the state is saved after all of them.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from semisam_o1.core import distributed
from semisam_o1.core.progress import duration
from semisam_o1.data.sampling.batches import Batch
from semisam_o1.drawing.outlines import overlay
from semisam_o1.training import checkpoint

if TYPE_CHECKING:
    from semisam_o1.training.trainer import RoundTrainer

LOG_INTERVAL = 20  # iterations whose losses leave the device together
WARM_UP, ESTIMATE_AFTER = 5, 50  # iterations between which the rate is measured


def estimate_duration(trainer: RoundTrainer, batch: Batch) -> None:
    """Tell the user once, in the first round, how long all rounds will train."""
    done, options = trainer.iteration, trainer.options
    if trainer.context.round_ == 1 and done == WARM_UP:
        trainer.warmed_up_at = time.monotonic()
    if done == ESTIMATE_AFTER < options.max_iterations and trainer.warmed_up_at is not None:
        pace = (time.monotonic() - trainer.warmed_up_at) / (done - WARM_UP)
        left = pace * (options.num_rounds * options.max_iterations - done)
        end = datetime.datetime.now() + datetime.timedelta(seconds=left)
        trainer.context.tracker.say(
            f"{1 / pace:.2f} iterations/s: about {duration(left)} of training are left in {options.num_rounds} "
            f"rounds, until {end:%a %H:%M}; validation and relabeling take additional time"
        )


def log_losses(trainer: RoundTrainer, batch: Batch) -> None:
    if trainer.due(LOG_INTERVAL):
        trainer.loss_log.flush()


@torch.no_grad()
def log_images(trainer: RoundTrainer, batch: Batch) -> None:
    """Show a labeled and a pseudo-labeled patch with their label and prediction in TensorBoard."""
    if not trainer.options.log_images or trainer.iteration % trainer.options.log_images:
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
    if not trainer.due(trainer.options.val_interval):
        return
    context, iteration = trainer.context, trainer.iteration
    trainer.loss_log.flush()
    started = time.monotonic()
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
    trainer.loss_log.pause(time.monotonic() - started)


def keep_checkpoint(trainer: RoundTrainer, batch: Batch) -> None:
    if trainer.iteration % trainer.options.save_interval == 0 and distributed.is_main():
        path = trainer.context.folder.periodic(trainer.context.round_, trainer.iteration)
        checkpoint.save(trainer.eval_model.state_dict(), path)


AFTER_ITERATION: dict[str, Callable[[RoundTrainer, Batch], None]] = {
    "estimate_duration": estimate_duration,
    "log_losses": log_losses,
    "log_images": log_images,
    "validate": validate,
    "keep_checkpoint": keep_checkpoint,
}
