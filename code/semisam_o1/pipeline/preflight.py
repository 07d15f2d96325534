"""Before a run computes anything: everything it needs is checked, its folder taken, and where it goes on found out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from semisam_o1.core import distributed
from semisam_o1.core.device import resolve_device, resolve_precision
from semisam_o1.core.errors import InputError, RunError
from semisam_o1.core.memory import configure_allocator
from semisam_o1.data.preflight.check import Cohort, check_training
from semisam_o1.features.extract import FEATURE_SETS, FeatureSet
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.runs.arguments import arguments_before, changed_surroundings, check_same_run, write_arguments
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.lock import RunLock, describe
from semisam_o1.runs.records import open_round
from semisam_o1.training import checkpoint
from semisam_o1.training.stopping import StopRequest
from semisam_o1.training.tracking import Position


@dataclass
class Checked:
    """What a run needs, known to be good.

    Attributes:
        precision: 'fp32' or 'bf16'.
        feature_set: None once it was taken.
        before: args.json of the run that goes on, None for a new one.
    """

    folder: RunFolder
    device: torch.device
    precision: str
    feature_set: FeatureSet | None
    cohort: Cohort
    before: dict[str, Any] | None

    def take_feature_set(self) -> FeatureSet:
        """Hand the feature set over for good: an encoder's memory is better spent on training afterwards."""
        feature_set, self.feature_set = self.feature_set, None
        return feature_set


@dataclass(frozen=True)
class Start:
    """Where a run begins or goes on.

    Attributes:
        done: the last finished round, None before round 0.
        state: of the round after it, None where that begins anew.
        position: of a run that goes on.
        remarks: what the user should know.
    """

    done: int | None
    state: dict[str, Any] | None
    position: Position | None
    remarks: list[str]


def check_run(config: TrainConfig, folder: RunFolder, stop: StopRequest) -> Checked:
    """Check arguments, checkpoint, data and run folder; nothing is written.

    Raises:
        InputError: if the run cannot be made of them.
        Interrupted: if a stop was asked for in between.
    """
    folder.check(config.resume, config.overwrite)
    RunLock(folder.path).check()
    device = distributed.start(resolve_device(config.device))
    configure_allocator(device.type)
    _check_processes(config)
    before = arguments_before(folder) if config.resume else None
    feature_set = FEATURE_SETS[config.features](config.sam_ckpt, device)
    cohort = distributed.on_main(lambda: _check_data(config, stop))
    precision = resolve_precision(config.precision, device.type)
    if before is not None:
        if config.precision == "auto":  # may mean another one on this device
            precision = before.get("precision", precision)
        check_same_run(before, config, cohort, precision, feature_set.key, folder)
    return Checked(folder, device, precision, feature_set, cohort, before)


def begin(config: TrainConfig, checked: Checked, lock: RunLock) -> Start:
    """Make the run folder, or find out how far the run in it has come.

    Args:
        lock: held.

    Raises:
        InputError: if the folder cannot be used.
    """
    folder, cohort = checked.folder, checked.cohort

    def take() -> tuple[int | None, list[str]]:
        folder.check(config.resume, config.overwrite)  # another run may have made it since
        remarks = [f"warning: {warning}" for warning in cohort.warnings]
        if lock.left_by is not None and not config.overwrite:
            remarks.append(f"the run before{describe(lock.left_by)} did not end by itself; its lock is taken over")
        if checked.before is not None:
            remarks += changed_surroundings(checked.before, checked.device)
        folder.create(config.overwrite)
        write_arguments(
            config, cohort, folder, checked.device, checked.precision, checked.feature_set.key, checked.before
        )
        return _last_whole_round(folder, cohort, remarks), remarks

    done, remarks = distributed.on_main(take)
    next_round = 1 if done is None else done + 1
    state, faults = checkpoint.load_state(folder.state, next_round)
    remarks += [f"warning: {fault}; an earlier state takes its place" for fault in faults]
    position = None
    if config.resume:
        iteration = state["iteration"] if state else 0
        step = (next_round - 1) * config.max_iterations + iteration
        position = Position(-1 if done is None else done, next_round, iteration, step)
    return Start(done, state, position, remarks)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Let input that turns out bad from here on count as a failure while running."""
    try:
        yield
    except InputError as error:
        raise RunError(f"{error}; it was good when the run started") from error


def summary(config: TrainConfig, checked: Checked) -> str:
    """Return what --check_only prints."""
    cohort = checked.cohort
    shapes = [info.shape for info in cohort.info.values()]
    sizes = " × ".join(
        f"{min(axis)}" if min(axis) == max(axis) else f"{min(axis)}–{max(axis)}" for axis in zip(*shapes, strict=True)
    )
    goes_on = "goes on" if checked.before is not None else "new"
    return "\n".join(
        [
            *(f"warning: {warning}" for warning in cohort.warnings),
            f"{config.root_path} can be trained on: {len(cohort.labeled)} labeled ({', '.join(cohort.labeled)}), "
            f"{len(cohort.unlabeled)} unlabeled, {len(cohort.validation)} validation volumes of {sizes} voxels, "
            f"{cohort.nbytes / 2**30:.2f} GiB decoded",
            f"{config.backbone} with {config.model} in {checked.precision} on {checked.device}, features "
            f"{checked.feature_set.key}",
            f"run folder ({goes_on}): {checked.folder.path}",
            "checked; nothing was computed or written",
        ]
    )


def _check_data(config: TrainConfig, stop: StopRequest) -> Cohort:
    return check_training(
        config.dataset, config.labeled_num, config.num_classes, config.labels_for_diagnosis, stop.progress
    )


def _check_processes(config: TrainConfig) -> None:
    ranks = distributed.world_size()
    unlabeled = config.batch_size - config.labeled_bs
    if config.labeled_bs % ranks or unlabeled % ranks:
        raise InputError(
            f"{ranks} processes share every batch: --labeled_bs ({config.labeled_bs}) and the unlabeled items "
            f"({unlabeled}) must both be divisible by {ranks}"
        )


def _last_whole_round(folder: RunFolder, cohort: Cohort, remarks: list[str]) -> int | None:
    """Return the last round whose labels are on disk, None before round 0; a damaged file is set aside."""
    for round_ in reversed(folder.labeled_rounds()):
        path = folder.pseudo_labels(round_)
        try:
            with open_round(path) as labels:
                labels.record()
                if any(labels.label(name).shape != cohort.info[name].shape for name in cohort.train):
                    raise InputError(f"{path} is not what a finished round leaves")
            return round_
        except InputError as error:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            remarks.append(f"warning: {error}; it is now {aside.name}, and round {round_} is finished anew")
    return None
