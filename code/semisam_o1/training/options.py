"""The flags of the training loop, and what it needs to know about one round."""

from __future__ import annotations

from dataclasses import dataclass

from semisam_o1.core.flags import AT_LEAST_0, AT_LEAST_1, option
from semisam_o1.methods import MethodOptions
from semisam_o1.runs.layout import RunFolder
from semisam_o1.training.stopping import StopRequest
from semisam_o1.training.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(MethodOptions):
    """Training loop."""

    num_rounds: int = option(3, "rounds of training and relabeling", within=AT_LEAST_1, resume="any")
    val_interval: int = option(200, "iterations between validations", within=AT_LEAST_1)
    save_interval: int = option(3000, "iterations between kept checkpoints", within=AT_LEAST_1, resume="any")
    log_images: int = option(
        500, "iterations between slice overlays in TensorBoard; 0: none", within=AT_LEAST_0, resume="any"
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
    """One round and where its results go.

    Attributes:
        round_: from 1.
        seed: of the round.
        precision: 'fp32', 'bf16' or 'fp16' (autocast; losses stay in float32).
        num_workers: processes that read patches; None where volumes are in memory.
    """

    round_: int
    seed: int
    precision: str
    num_workers: int | None
    folder: RunFolder
    tracker: Tracker
    stop: StopRequest
