"""The plan of a run made from its scans and its machine, and the configuration that follows it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from semisam_o1.core import distributed
from semisam_o1.core.flags import patch_faults
from semisam_o1.core.memory import available_memory
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.volumes import Grid
from semisam_o1.data.preflight.check import Cohort, turned_volumes
from semisam_o1.data.sampling.store import choose_cache
from semisam_o1.networks.levels import ISOTROPIC, choose_levels, divisors
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.memory import check_memory, memory_needed, step_memory
from semisam_o1.pipeline.trial import step_seconds
from semisam_o1.plan.decisions import AS_GIVEN, Decision, Plan
from semisam_o1.plan.facts import Machine, Scans, Template
from semisam_o1.plan.grid import fitting_patch, window_stride, window_voxels
from semisam_o1.plan.length import (
    FIRST_HOURS,
    FIRST_ITERATIONS,
    MAX_ITERATIONS,
    Clock,
    Length,
    Wanted,
    Workload,
    fit_length,
    published_length,
)
from semisam_o1.propagation.description import reduced_grid
from semisam_o1.propagation.keys import AtlasKeys
from semisam_o1.propagation.region import Pose, structures
from semisam_o1.refinement.surroundings import sides_around

MIN_GAIN = 0.95  # of the time of a step: more may be noise
LENGTH = ("max_iterations", "num_rounds", "val_interval")


def describe_scans(config: TrainConfig, cohort: Cohort, features_key: str, cache: ArrayCache) -> Scans:
    """Return the facts about a checked cohort that a plan is made from; ``cache`` is that of registrations."""
    train = {name: cohort.info[name] for name in cohort.train}
    grids = [Grid(info.shape, info.geometry) for info in train.values()]
    counts = {key: len(getattr(cohort, key)) for key in ("labeled", "unlabeled", "validation")}
    # One of several templates may be empty.
    label, grid = next(
        (label, Grid(train[name].shape, train[name].geometry))
        for name in cohort.labeled
        if (label := config.dataset.label(name)).any()
    )
    turned, around = bool(turned_volumes(train)), _around_structures(label, grid)
    keys = AtlasKeys(cohort, config.num_classes, features_key, config.registration)
    # All processes plan alike, although they may see the cache at different times.
    compared = (*cohort.unlabeled, *_corrected(config, cohort))
    registered = distributed.from_main(sum(keys.volume(name) in cache for name in compared))
    template = Template.of(label, config.num_classes)
    return Scans.of(grids, template, **counts, turned=turned, registered=registered, **around)


def _corrected(config: TrainConfig, cohort: Cohort) -> Sequence[str]:
    """Return the validation volumes whose predictions a run corrects by the cohort."""
    return cohort.validation if config.calibrate and config.refinement == "fusion" else ()


def _around_structures(label: np.ndarray, grid: Grid) -> dict[str, Any]:
    """Return the facts about the template's region."""
    spacing = grid.geometry.spacing
    found = structures(label, spacing)
    region = found.region(grid.size, spacing, Pose(found.center))
    step = tuple(length / found.unit for length in region.step)
    searched = math.prod(reduced_grid(region.grid, step, found.coarseness))
    return {"region": math.prod(region.grid), "region_size": region.size, "searched": searched}


def describe_machine(device: torch.device, precision: str) -> Machine:
    """Return the facts about this process's share of the machine, on every rank those of rank 0."""
    on_gpu = device.type == "cuda"
    memory = torch.cuda.mem_get_info(device)[1] if on_gpu else available_memory()
    memory = memory if on_gpu else memory // distributed.world_size()
    return distributed.from_main(Machine(on_gpu, memory, torch.get_num_threads(), precision))


def as_planned(config: TrainConfig, previous: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of a run that goes on, unless something else is given now.

    What was planned then stays, and a flag that did not exist then keeps its own default, whatever the recipe says.

    Args:
        previous: content of args.json.
    """
    before = previous["arguments"]
    then = {name: before[name] for name in previous.get("planned", ()) if name in before}
    then |= {item.name: item.default for item in dataclasses.fields(config) if item.name not in before}
    return dataclasses.replace(config, **{name: value for name, value in then.items() if name not in config.given})


def plan_run(
    config: TrainConfig, cohort: Cohort, scans: Scans, machine: Machine, device: torch.device
) -> tuple[TrainConfig, Plan | None]:
    """Decide what was not given: everything with ``--recipe best``, with ``--hours`` alone the length of the run.

    Returns:
        The configuration to run with, and the plan; None where nothing is planned.

    Raises:
        InputError: if memory does not hold a training step.
    """
    best, given = config.recipe == "best", config.given
    settings = _decide(config, given, _settings(config, scans, machine, given)) if best else []
    config = _with(config, settings)
    check_memory(config, scans, machine)
    if best:
        where = choose_cache(config.cache, device, *memory_needed(config, cohort, machine.precision))[1]
        settings += _decide(config, given, [Decision("cache", config.cache, where)])
    if not best and config.hours is None:
        return config, None
    wanted = Wanted(config.hours, *(getattr(config, name) if name in given else None for name in LENGTH))
    if config.hours is None and (machine.on_gpu or wanted.iterations):  # nothing is timed: the same run every time
        length, reason = published_length(wanted), "the published length"
    else:
        seconds = time_steps(config, cohort, machine, device, best and "precision" not in given)
        settings += _decide(config, given, [_precision(seconds, config.precision)]) if best else []
        config = _with(config, settings)
        length = fit_length(Clock(workload(config, cohort, scans), min(seconds.values())), wanted)
        reason = _reason(length, wanted, min(seconds.values()))
    values = (length.iterations, length.rounds, length.val_interval)
    reasons = (reason, "each learns from the labels of the one before", "about ten validations a round")
    lengths = _decide(config, given, [Decision(*row) for row in zip(LENGTH, values, reasons, strict=True)])
    return _with(config, lengths), Plan((*settings, *lengths), length.seconds)


def _settings(config: TrainConfig, scans: Scans, machine: Machine, given: Collection[str]) -> list[Decision]:
    """Return what a plan would set, beside the length of the run."""
    voxels = machine.patch_voxels(step_memory(config, machine.precision))
    patch, levels = _patch_and_levels(config, scans, voxels, given)
    covered = math.prod(min(1, side / length) for side, length in zip(patch, scans.size, strict=True))
    sides = " × ".join(map(str, scans.size))
    turned = ("all", "the headers state several") if scans.turned else ("none", "the headers state one, or none")
    part = f"{100 * covered:.0f} % of a typical scan of {sides} voxels, on a {machine.name}"
    return [
        Decision("patch_size", patch, part),
        Decision("network_levels", levels, _reason_for_levels(levels)),
        Decision("batch_size", config.batch_size, "labeled items and as many others"),
        Decision("base_lr", config.base_lr, "measured to be best for short rounds (docs/accuracy.md)"),
        Decision("orientations", *turned),
        Decision("augmentation", config.augmentation, "one label shows too little of how anatomy varies"),
        Decision("val_stride", window_stride(scans.size, patch), "windows overlap by half, where there are several"),
    ]


def _patch_and_levels(
    config: TrainConfig, scans: Scans, voxels: int, given: Collection[str]
) -> tuple[Sequence[int], str]:
    """Return patch and levels of the network that suit each other, either as it is given.

    Args:
        voxels: that the patch may have.
    """

    def levels(sides: Sequence[int]) -> str:
        chosen = config.adapts and "network_levels" not in given
        return choose_levels(sides, scans.spacing) if chosen else config.network_levels

    if "patch_size" in given:
        return config.patch_size, levels(config.patch_size)
    of_scans = levels(scans.size)
    patch = fitting_patch(scans.size, voxels, divisors(of_scans))
    of_patch = levels(patch)
    return patch, of_scans if patch_faults(patch, divisors(of_patch)) else of_patch


def _reason_for_levels(levels: str) -> str:
    if levels == ISOTROPIC:
        return "all axes are about as finely sampled and as long"
    return "kernel/stride: not across thick slices, and short axes are halved less often"


def _decide(config: TrainConfig, given: Collection[str], decisions: Sequence[Decision]) -> list[Decision]:
    """Return the decisions, with what was given in place of them."""
    return [Decision(d.flag, getattr(config, d.flag), AS_GIVEN) if d.flag in given else d for d in decisions]


def _with(config: TrainConfig, decisions: Sequence[Decision]) -> TrainConfig:
    return dataclasses.replace(config, **{decision.flag: decision.value for decision in decisions})


def workload(config: TrainConfig, cohort: Cohort, scans: Scans) -> Workload:
    """Return what the stages of a run compute, in the share of one process."""
    count, ranks = len(cohort.unlabeled), distributed.world_size()
    unlabeled, validation = ([cohort.info[n].shape for n in names] for names in (cohort.unlabeled, cohort.validation))
    if (fuses := config.refinement == "fusion") and (size := scans.region_size):
        unlabeled = [sides_around(size, shape, config.patch_size, config.zooms) for shape in unlabeled]

    def windows(shapes: Sequence[Sequence[int]], zooms: Sequence[float]) -> int:
        sizes = [[max(1, round(n * zoom)) for n in shape] for shape in shapes for zoom in zooms]
        return sum(window_voxels(size, config.patch_size, config.val_stride) for size in sizes) // ranks

    registers = config.registration and (config.propagation == "atlas" or "template" in config.augmentation)
    corrected = len(_corrected(config, cohort))
    registered = count + corrected if registers else 0
    return Workload(
        batch=config.batch_size // ranks * math.prod(config.patch_size),
        validation=windows(validation, [1.0]),
        relabeling=windows([*unlabeled, *2 * validation * config.calibrate], config.zooms),
        registered=max(0, registered - scans.registered) * scans.searched // ranks,
        warped=registered * scans.region // ranks,
        fused=(count + corrected) * scans.region // ranks if fuses else 0,
    )


def time_steps(
    config: TrainConfig, cohort: Cohort, machine: Machine, device: torch.device, choose: bool
) -> dict[str, float]:
    """Return the seconds of a training step by precision: the one in use and, on a CPU, float32 if one may choose."""
    tried = [machine.precision]
    if choose and machine.precision == "bf16" and not machine.on_gpu:
        needed = step_memory(config, "fp32")(math.prod(config.patch_size))
        tried += ["fp32"] if needed < machine.step_memory() else []
    return distributed.from_main({name: step_seconds(config, cohort, device, name) for name in tried})


def _precision(seconds: Mapping[str, float], asked: str) -> Decision:
    """Return the fastest precision; between nearly equal ones, the first."""
    first, best = next(iter(seconds)), min(seconds, key=seconds.__getitem__)
    if len(seconds) == 1:
        return Decision("precision", asked, f"{first} is what this device computes best")
    best = best if seconds[best] < MIN_GAIN * seconds[first] else first
    times = ", ".join(f"{name} {value:.2g} s" for name, value in seconds.items())
    return Decision("precision", best, f"a step takes, here: {times}")


def _reason(length: Length, wanted: Wanted, step: float) -> str:
    """Return why a run is as long as planned."""
    pace = f"{step:.2g} s each here"
    if wanted.hours is None and length.iterations == FIRST_ITERATIONS:
        return f"{pace}; a first result, --hours trains longer"
    if length.iterations == MAX_ITERATIONS:
        return f"{pace}; the published length"
    hours = wanted.hours or FIRST_HOURS
    if length.seconds > 3600 * hours:
        return f"{pace}; more than {hours:g} h, too short for these scans"
    return f"{pace}; they fill {hours:g} h"
