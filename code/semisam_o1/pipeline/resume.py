"""Where a run starts: its folder is created or taken over, and the resume point determined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semisam_o1.core import distributed
from semisam_o1.core.errors import InputError
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.preflight import PreflightResult
from semisam_o1.runs.arguments import changed_environment, write_arguments
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.lock import RunLock, describe
from semisam_o1.runs.records import open_round
from semisam_o1.training import checkpoint
from semisam_o1.training.tracking import Position


@dataclass(frozen=True)
class ResumePoint:
    """Where a run starts or continues.

    Attributes:
        state: training state of the round that is continued, None where it starts from its beginning.
        resumed: whether an earlier run is continued.
        remarks: sentences for the user.
    """

    position: Position
    state: dict[str, Any] | None
    resumed: bool
    remarks: list[str]


def take_folder(config: TrainConfig, checked: PreflightResult, lock: RunLock) -> ResumePoint:
    """Create the run folder or take over the run in it, write args.json and determine the resume point.

    Args:
        lock: on the run folder, acquired.

    Raises:
        InputError: if the folder cannot be used.
    """
    folder, cohort = checked.folder, checked.cohort

    def take() -> tuple[int, list[str]]:
        folder.check(config.resume, config.overwrite)  # another run may have created it meanwhile
        remarks = [f"warning: {warning}" for warning in cohort.warnings]
        if lock.left_by is not None and not config.overwrite:
            remarks.append(f"the previous run{describe(lock.left_by)} was killed; its lock is taken over")
        if checked.previous is not None:
            remarks += changed_environment(checked.previous, checked.arguments)
        folder.create(config.overwrite)
        write_arguments(folder, checked.arguments, checked.previous)
        return _last_finished_round(folder, cohort, remarks), remarks

    finished, remarks = distributed.on_main(take)
    next_round = max(finished, 0) + 1
    state, faults = checkpoint.load_state(folder.state, next_round)
    remarks += [f"warning: {fault}; an earlier state is used instead" for fault in faults]
    iteration = state["iteration"] if state else 0
    position = Position(finished, next_round, iteration, (next_round - 1) * config.max_iterations + iteration)
    return ResumePoint(position, state, config.resume, remarks)


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
