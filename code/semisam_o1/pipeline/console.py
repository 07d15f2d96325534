"""Console output of a training run: its choices with their reasons, the table of the rounds, the next commands."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import torch

from semisam_o1.core.device import cuda_fault
from semisam_o1.core.flags import shell_command
from semisam_o1.core.terminal import counted, duration, text_table
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.networks.levels import ISOTROPIC
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.start import PreflightResult
from semisam_o1.plan.decisions import read_plan
from semisam_o1.runs.best import best_round
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord
from semisam_o1.runs.results import read_steps
from semisam_o1.training.convergence import not_converged


def opening(config: TrainConfig, checked: PreflightResult, location: str, location_reason: str) -> str:
    """Return the lines that a run starts with; choices left to 'auto' are given with their reason.

    Args:
        location: where decoded volumes are held: 'gpu', 'ram' or 'none'.
    """
    cohort, device, precision = checked.cohort, checked.device, checked.precision
    on_gpu, planned = device.type == "cuda", "precision" in checked.arguments.get("planned", ())
    fault = None if on_gpu else cuda_fault()
    found = fault.reason if fault else "a CUDA device works"
    native = "is computed natively here" if precision == "bf16" else "is what this device computes best"
    features = "as requested" if config.sam_ckpt.is_file() else f"there is no {config.sam_ckpt}"
    rule = (
        f"by the Dice of {counted(len(cohort.validation), 'validation label')}"
        if cohort.validation
        else ("the last of each round, since val.txt names no scan; their quality is not measured")
    )
    levels = "" if config.network_levels == ISOTROPIC else f", levels (kernel/stride) {config.network_levels}"
    held = {"ram": "in RAM", "gpu": "on the GPU", "none": "in their files"}[location]
    rows = {
        "scans": f"{_counts(cohort)} volumes of {config.root_path}",
        "method": f"{config.backbone} with {config.model}, {counted(config.num_rounds, 'round')} of "
        f"{counted(config.max_iterations, 'iteration')}, patch {' '.join(map(str, config.patch_size))}{levels}",
        "round 0": f"{config.propagation} propagation, {config.features} features"
        + (f" ({features})" if config.features == "builtin" else ""),
        "selection": rule,
        "device": f"{torch.cuda.get_device_name(device) if on_gpu else 'cpu'} ({_reason(config.device, found)})",
        "precision": f"{precision} ({'as planned' if planned else _reason(config.precision, f'{precision} {native}')})",
        "volumes": f"kept {held} ({'auto: ' if config.cache == 'auto' else ''}{location_reason})",
        "run folder": str(checked.folder.path),
    }
    lines = [f"{key + ':':<12}{value}" for key, value in rows.items()]
    return "\n".join([*lines, *([checked.plan.table()] if checked.plan else [])])


def check_summary(config: TrainConfig, checked: PreflightResult) -> str:
    """Return what --check_only prints."""
    cohort, timed = checked.cohort, checked.plan is not None and checked.plan.seconds is not None
    shapes = [info.shape for info in cohort.info.values()]
    sizes = " × ".join(
        f"{min(axis)}" if min(axis) == max(axis) else f"{min(axis)}–{max(axis)}" for axis in zip(*shapes, strict=True)
    )
    return "\n".join(
        [
            *(f"warning: {warning}" for warning in cohort.warnings),
            f"{config.root_path} can be trained on: {_counts(cohort)} volumes of {sizes} voxels, "
            f"{cohort.nbytes / 2**30:.2f} GiB decoded; labeled: {', '.join(cohort.labeled)}",
            f"{config.backbone} with {config.model} in {checked.precision} on {checked.device}, features "
            f"{checked.arguments['features']}",
            f"run folder ({'new' if checked.previous is None else 'to be continued'}): {checked.folder.path}",
            *([checked.plan.table()] if checked.plan else []),
            f"checked; {'a few steps were timed, nothing was' if timed else 'nothing was computed or'} written",
        ]
    )


def closing(records: Sequence[RoundRecord]) -> str:
    """Return a table with a row per round; a star marks the round whose model was kept."""
    best = best_round(records)
    rows = [("round", "pseudo-label Dice", "uncertainty", "refined", "validation Dice", "best at", "time")]
    for record in records:
        rows.append(
            (
                f"{record.round}{' *' if record.trained and record is best else '  '}",
                _number(record.pseudo_dice),
                _number(record.uncertainty),
                str(len(record.refined)),
                _number(record.validation_dice),
                str(record.best_iteration) if record.trained else "–",
                duration(record.seconds),
            )
        )
    return "\n".join(text_table(rows))


def too_short(config: TrainConfig, folder: RunFolder, round_: int) -> str | None:
    """Return the sentence on a round that has plainly not converged, None where it has."""
    reason = not_converged(read_steps(folder.metrics), round_)
    remedy = f"--resume --max_iterations {2 * config.max_iterations} trains longer"
    return f"round {round_} has not converged: {reason}; {remedy}" if reason else None


def took(folder: RunFolder, records: Sequence[RoundRecord]) -> list[str]:
    """Return a line that compares the time of a run with that of its plan; none where no time was predicted."""
    plan = read_plan(folder.plan)
    if plan is None or plan.seconds is None:
        return []
    return [f"took {duration(sum(record.seconds for record in records))}, predicted: {duration(plan.seconds)}"]


def selection(best: RoundRecord, validated: int) -> str:
    """Return which network was kept and by how many validation labels."""
    if best.validation_dice is None:
        return f"round {best.round}, the last one that was accepted (no validation label to select by)"
    return f"round {best.round}, validation Dice {best.validation_dice:.4f} on {counted(validated, 'validation label')}"


def next_commands(config: TrainConfig) -> str:
    """Return the commands that test the run where there are test scans, show it and export its labels."""
    run = f"--exp {shlex.quote(config.exp)} --backbone {config.backbone}"
    test = f"  {shell_command('test')} --root_path {shlex.quote(str(config.root_path))} {run}"
    return "\n".join(
        [
            "next:",
            *([test] if (config.root_path / "test.txt").is_file() else []),
            f"  {shell_command('report')} {shlex.quote(config.exp)} --backbone {config.backbone}",
            f"  {shell_command('predict')} {run} --cohort --out labels",
        ]
    )


def _counts(cohort: Cohort) -> str:
    return f"{len(cohort.labeled)} labeled, {len(cohort.unlabeled)} unlabeled, {len(cohort.validation)} validation"


def _reason(requested: str, reason: str) -> str:
    return f"auto: {reason}" if requested == "auto" else "as requested"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
