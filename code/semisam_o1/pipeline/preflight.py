"""The checks before a training run: nothing is computed, written or set up here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from semisam_o1.core import distributed
from semisam_o1.core.device import resolve_precision
from semisam_o1.core.errors import InputError
from semisam_o1.data.preflight.check import Cohort, check_training
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.runs.arguments import check_same_run, describe_run, read_run_arguments
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.lock import RunLock
from semisam_o1.training.stopping import StopRequest


@dataclass(frozen=True)
class PreflightResult:
    """What a run is made of, checked.

    Attributes:
        precision: 'fp32', 'bf16' or 'fp16'.
        arguments: content of args.json of this run.
        previous: content of args.json of the run that is resumed, None for a new one.
    """

    folder: RunFolder
    device: torch.device
    precision: str
    cohort: Cohort
    arguments: dict[str, Any]
    previous: dict[str, Any] | None


def check_folder(config: TrainConfig, folder: RunFolder) -> None:
    """Refuse a run folder that another process uses, or that holds a run that is neither resumed nor replaced.

    Raises:
        InputError: naming the folder and the flags that decide.
    """
    folder.check(config.resume, config.overwrite)
    RunLock(folder.path).check()


def check_run(
    config: TrainConfig, folder: RunFolder, device: torch.device, features_key: str, stop: StopRequest
) -> PreflightResult:
    """Check that the processes can share a batch, the dataset, and the run that is to be resumed.

    Raises:
        InputError: listing what is wrong.
        Interrupted: if a stop was requested meanwhile.
    """
    _check_processes(config)
    previous = read_run_arguments(folder) if config.resume else None
    cohort = distributed.on_main(
        lambda: check_training(
            config.dataset, config.labeled_num, config.num_classes, config.labels_for_diagnosis, stop.progress
        )
    )
    precision = config.precision
    if previous is not None and precision == "auto":  # may mean another one on this device
        precision = previous.get("precision", precision)
    precision = resolve_precision(precision, device.type)
    arguments = describe_run(config, cohort, device, precision, features_key)
    if previous is not None:
        check_same_run(previous, arguments, config, folder)
    return PreflightResult(folder, device, precision, cohort, arguments, previous)


def _check_processes(config: TrainConfig) -> None:
    ranks = distributed.world_size()
    unlabeled = config.batch_size - config.labeled_bs
    if config.labeled_bs % ranks or unlabeled % ranks:
        raise InputError(
            f"{ranks} processes share every batch: --labeled_bs ({config.labeled_bs}) and the unlabeled items "
            f"({unlabeled}) must both be divisible by {ranks}"
        )
