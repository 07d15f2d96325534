"""The memory that a run needs, and the error where there is less."""

from __future__ import annotations

import math
from collections.abc import Callable

from semisam_o1.core import distributed
from semisam_o1.core.device import HALF_PRECISION
from semisam_o1.core.errors import InputError
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.methods import METHODS
from semisam_o1.networks.levels import divisors
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.plan.decisions import memory_fault
from semisam_o1.plan.facts import Machine, Scans
from semisam_o1.plan.grid import fitting_patch
from semisam_o1.propagation.region import MAX_CELLS


def step_memory(config: TrainConfig, precision: str) -> Callable[[int], int]:
    """Return the function from the voxels of a patch to the bytes of a training step."""
    half = precision in HALF_PRECISION
    ranks, method = distributed.world_size(), METHODS[config.backbone]
    items = (config.labeled_bs // ranks, (config.batch_size - config.labeled_bs) // ranks)
    share = config.activations
    return lambda voxels: method.step_bytes(round(voxels * share), *items, config.num_classes, half)


def check_memory(config: TrainConfig, scans: Scans, machine: Machine) -> None:
    """Raise InputError if memory does not hold a training step, naming a patch that it holds."""
    step_bytes = step_memory(config, machine.precision)
    fitting = fitting_patch(scans.size, machine.patch_voxels(step_bytes), divisors(config.network_levels))
    needed = step_bytes(math.prod(config.patch_size))
    if fault := memory_fault(config.patch_size, needed, machine.memory, fitting):
        raise InputError(fault)


def memory_needed(config: TrainConfig, cohort: Cohort, precision: str) -> tuple[int, int]:
    """Return the bytes of the volumes and of all that is kept beside them, and those of a training step on a GPU."""
    kept = 1 + config.confidence_weights  # pseudo-labels and their weights
    sizes = [math.prod(cohort.info[name].shape) for name in cohort.unlabeled]
    nbytes = cohort.nbytes + kept * sum(sizes)
    if "template" in config.augmentation:  # coordinates in the template
        nbytes += sum(12 * min(size, MAX_CELLS) for size in sizes)
    return nbytes, step_memory(config, precision)(math.prod(config.patch_size))
