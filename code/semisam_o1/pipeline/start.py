"""How a run starts: checks that neither compute nor write, then its folder is taken and the resume point found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from semisam_o1.core import distributed
from semisam_o1.core.atomic_io import write_json
from semisam_o1.core.device import resolve_precision
from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.preflight.check import Cohort, check_training
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.memory import check_memory
from semisam_o1.pipeline.planning import as_planned, describe_machine, describe_scans, plan_run
from semisam_o1.plan.decisions import Plan, remarks
from semisam_o1.runs.arguments import check_same_run, describe_run, iterations_of, read_previous, write_arguments
from semisam_o1.runs.layout import RunFolder, RunLock
from semisam_o1.runs.records import open_round
from semisam_o1.training import checkpoint
from semisam_o1.training.stopping import StopRequest


@dataclass(frozen=True)
class PreflightResult:
    """What a run is made of, checked."""

    folder: RunFolder
    device: torch.device
    precision: str  # 'fp32', 'bf16' or 'fp16'
    cohort: Cohort
    arguments: dict[str, Any]  # content of args.json of this run
    previous: dict[str, Any] | None  # the same of the run that is resumed, None for a new one
    plan: Plan | None = None  # None where nothing is planned, or it was when the run was started


@dataclass(frozen=True)
class ResumePoint:
    """Where a run starts or continues."""

    finished: int  # the last finished round, −1 before round 0 is finished
    next_round: int  # the round that is trained next, or continued
    step: int  # number of finished iterations over all rounds
    state: dict[str, Any] | None  # of the round that is continued, None where it starts from its beginning
    remarks: list[str]  # sentences for the user


def check_run(
    config: TrainConfig, folder: RunFolder, device: torch.device, features_key: str, stop: StopRequest
) -> tuple[TrainConfig, PreflightResult]:
    """Check that the processes can share a batch, the dataset, and the run that is to be resumed; plan a new run.

    Returns:
        The configuration to run with, planned or as before, and what was found.

    Raises:
        InputError: listing what is wrong.
        Interrupted: if a stop was requested meanwhile.
    """
    ranks, unlabeled = distributed.world_size(), config.batch_size - config.labeled_bs
    if config.labeled_bs % ranks or unlabeled % ranks:
        raise InputError(
            f"{ranks} processes share every batch: --labeled_bs ({config.labeled_bs}) and the unlabeled items "
            f"({unlabeled}) must both be divisible by {ranks}"
        )
    previous = read_previous(folder) if config.resume else None
    if previous is not None:
        config = as_planned(config, previous)
    cohort = distributed.on_main(
        lambda: check_training(
            config.dataset, config.labeled_num, config.num_classes, config.labels_for_diagnosis, stop.progress
        )
    )
    precision = config.precision
    if previous is not None and precision == "auto":  # may mean another one on this device
        precision = previous.get("precision", precision)
    precision = resolve_precision(precision, device.type)
    cache = registration_cache(config, folder)
    scans, machine = describe_scans(config, cohort, features_key, cache), describe_machine(device, precision)
    cohort = replace(cohort, warnings=(*cohort.warnings, *remarks(scans)))
    plan = None
    if previous is not None:
        check_memory(config, scans, machine)
    else:
        config, plan = plan_run(config, cohort, scans, machine, device)  # steps are tried by all ranks together
        precision = precision if config.precision == "auto" else config.precision
    arguments = describe_run(config, cohort, device, precision, features_key)
    arguments["planned"] = plan.flags if plan else (previous or {}).get("planned", [])
    if previous is not None:
        check_same_run(previous, arguments, config, folder)
    return config, PreflightResult(folder, device, precision, cohort, arguments, previous, plan)


def registration_cache(config: TrainConfig, folder: RunFolder) -> ArrayCache:
    """Return the cache of features and registrations, which all runs on a dataset share."""
    return ArrayCache(config.root_path / "features", folder.cache)


def take_folder(config: TrainConfig, checked: PreflightResult, lock: RunLock) -> ResumePoint:
    """Create the run folder or take over the run in it, write args.json and determine the resume point.

    ``lock`` on the folder is acquired. Raises InputError if the folder cannot be used.
    """
    folder, cohort = checked.folder, checked.cohort

    def take() -> tuple[int, list[str]]:
        folder.check(config.resume, config.overwrite)  # another run may have created it meanwhile
        remarks = [f"warning: {warning}" for warning in cohort.warnings]
        if config.prompt is not None:
            remarks.append("--prompt has no effect: only the encoder of the foundation model is used")
        if lock.left_by and not config.overwrite:
            remarks.append(f"the previous run{lock.left_by} was killed; its lock is taken over")
        folder.create(config.overwrite)
        remarks += write_arguments(folder, checked.arguments, checked.previous)
        if checked.plan is not None:
            write_json(folder.plan, checked.plan.to_json())
        finished = _last_finished_round(folder, cohort, remarks)
        if checked.previous is not None and config.max_iterations > iterations_of(checked.previous):
            finished = _reopened(folder, finished, remarks)
        return finished, remarks

    finished, remarks = distributed.on_main(take)
    next_round = max(finished, 0) + 1
    state, faults = checkpoint.load_state(folder.state, next_round)
    remarks += [f"warning: {fault}; an earlier state is used instead" for fault in faults]
    step = (next_round - 1) * config.max_iterations + (state["iteration"] if state else 0)
    return ResumePoint(finished, next_round, step, state, remarks)


def _reopened(folder: RunFolder, finished: int, remarks: list[str]) -> int:
    """Let the last finished round go on for more iterations, if its state is there; return the one before it."""
    state = checkpoint.load_state(folder.state, finished)[0] if finished > 0 else None
    if state is None:
        return finished
    folder.pseudo_labels(finished).unlink()  # with them a round counts as finished
    remarks.append(f"round {finished} was finished after iteration {state['iteration']} and goes on from there")
    return finished - 1


def _last_finished_round(folder: RunFolder, cohort: Cohort, remarks: list[str]) -> int:
    """Return the last round whose labels are on disk, −1 before round 0; a damaged file is set aside."""
    for round_ in reversed(folder.labeled_rounds()):
        path = folder.pseudo_labels(round_)
        try:
            with open_round(path) as labels:
                labels.record()
                if any(labels.label(name).shape != cohort.info[name].shape for name in cohort.train):
                    raise InputError(f"{path} does not hold the labels of these scans")
            return round_
        except InputError as error:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            remarks.append(f"warning: {error}; it is renamed to {aside.name}, and round {round_} is repeated")
    return -1
