"""The plan makes sense for cohorts and machines that are unlike each other; it is arithmetic alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from semisam_o1.methods.base import Method
from semisam_o1.plan.decisions import Decision, Plan, memory_fault, remarks
from semisam_o1.plan.facts import Machine, Scans, Template
from semisam_o1.plan.grid import fitting_patch, sides_at, window_stride, window_voxels, working_spacing

GIB = 2**30
MACHINES = {
    "24 GB": Machine(True, 24 * GIB, 16, "bf16"),
    "80 GB": Machine(True, 80 * GIB, 16, "bf16"),
    "laptop": Machine(False, 6 * GIB, 2),  # of its 8
}
# Size in voxels, spacing in mm, extent of the template's foreground, voxels of its smallest class.
COHORTS = {
    "CT abdomen": ((512, 512, 100), (0.8, 0.8, 5.0), (150, 120, 24), 3000),
    "whole body": ((500, 500, 1000), (1.5, 1.5, 1.5), (200, 160, 150), 20_000),
    "mouse CT": ((400, 400, 600), (0.05, 0.05, 0.05), (160, 120, 140), 5000),
    "brain": ((182, 218, 182), (1.0, 1.0, 1.0), (25, 45, 28), 1500),
    "cine": ((216, 256, 10), (1.5, 1.5, 10.0), (79, 72, 9), 5700),
    "left atrium": ((193, 143, 88), (0.625, 0.625, 0.625), (152, 86, 60), 150_000),
}


def scans(name: str) -> Scans:
    size, spacing, extent, voxels = COHORTS[name]
    return Scans(size, spacing, Template(extent, (voxels,)), 1, 19, 4)


def step_bytes(machine: Machine, voxels: int) -> int:
    return Method.step_bytes(voxels, 1, 1, 2, machine.precision != "fp32")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("cohort", COHORTS)
def test_plans_make_sense(cohort: str, machine: str) -> None:
    found, computer = scans(cohort), MACHINES[machine]
    spacing, reason = working_spacing(found, computer)
    assert reason
    factors = [new / old for new, old in zip(spacing, found.spacing, strict=True)]
    assert all(factor >= 1 for factor in factors), "no axis gets finer"
    assert max(spacing) == max(found.spacing) or max(factors) == factors[int(np.argmax(found.spacing))] > 1
    extent = [n / factor for n, factor in zip(found.template.extent, factors, strict=True)]
    assert all(n >= 24 for n, factor in zip(extent, factors, strict=True) if factor > 1), "the template stays visible"
    assert found.template.class_voxels[0] / math.prod(factors) >= 64
    size = sides_at(found, min(spacing))
    patch = fitting_patch(size, computer.patch_voxels(lambda voxels: step_bytes(computer, voxels)))
    assert all(side % 16 == 0 for side in patch) and max(patch) >= 32
    assert step_bytes(computer, math.prod(patch)) < 0.8 * computer.memory
    assert math.prod(patch) >= 0.4 * min(math.prod(size), computer.patch_voxels()), "what memory allows is used"
    assert all(side < length + 16 or side == 16 for side, length in zip(patch, size, strict=True))
    assert all(2 * side >= n for side, n in zip(patch, extent, strict=True)), "a patch shows half of the structures"
    assert 1 <= window_stride(size, patch) <= max(patch)


@pytest.mark.parametrize(
    ("cohort", "machine", "spacing"),
    [
        ("left atrium", "laptop", (1.25, 1.25, 1.25)),
        ("left atrium", "24 GB", (0.625, 0.625, 0.625)),
        ("cine", "laptop", (2.625, 2.625, 10.0)),
        ("cine", "80 GB", (1.5, 1.5, 10.0)),
        ("brain", "24 GB", (1.0, 1.0, 1.0)),
    ],
)
def test_the_spacing_follows_scans_template_and_machine(
    cohort: str, machine: str, spacing: tuple[float, float, float]
) -> None:
    assert working_spacing(scans(cohort), MACHINES[machine])[0] == spacing


def test_a_small_structure_keeps_the_spacing_as_it_is() -> None:
    spacing, reason = working_spacing(scans("brain"), MACHINES["laptop"])
    assert spacing == (1.0, 1.0, 1.0)
    assert "template would be lost" in reason


def test_values_that_no_voxel_has_do_not_hinder() -> None:
    found = scans("cine")
    gaps = Scans(found.size, found.spacing, Template(found.template.extent, (5700, 0, 5700)))
    assert working_spacing(gaps, MACHINES["laptop"])[0] == (2.625, 2.625, 10.0)


def test_without_a_label_the_size_of_the_scans_decides() -> None:
    size, spacing, *_ = COHORTS["left atrium"]
    assert working_spacing(Scans(size, spacing), MACHINES["laptop"])[0] == (1.25, 1.25, 1.25)


def test_a_patch_is_as_large_as_scan_memory_and_time_allow() -> None:
    assert fitting_patch((97, 72, 44), 80 * 64 * 48) == (80, 64, 48)
    assert fitting_patch((36, 51, 36), 80 * 64 * 48) == (32, 48, 32)
    assert fitting_patch((123, 146, 10), 80 * 64 * 48) == (112, 128, 16)
    assert fitting_patch((190, 140, 88), 128**3) == (144, 144, 96)
    assert fitting_patch((5, 20, 7), 80 * 64 * 48) == (16, 32, 16)
    assert fitting_patch((5000, 9, 9), 16**3) == (32, 16, 16)


def test_windows_overlap_where_there_are_several() -> None:
    assert window_stride((97, 72, 44), (80, 64, 48)) == 32
    assert window_stride((30, 30, 30), (32, 48, 32)) == 48
    assert window_voxels((97, 72, 44), (80, 64, 48), 32) == 4 * 80 * 64 * 48
    assert window_voxels((30, 30, 30), (32, 48, 32), 48) == 32 * 48 * 32


def test_memory_shortens_the_patch_and_refuses_one_that_does_not_fit() -> None:
    small = Machine(False, 2 * GIB, 2)
    assert small.patch_voxels(lambda voxels: step_bytes(small, voxels)) < small.patch_voxels()
    assert memory_fault((96, 96, 96), 3 * GIB, 4 * GIB, (80, 64, 48)) is None
    fault = memory_fault((128, 128, 128), 6 * GIB, 4 * GIB, (80, 64, 48))
    assert fault.startswith("a training step on patches of 128 128 128 needs about 6.0 GiB")
    assert "--patch_size 80 64 48 fits" in fault


def test_what_cannot_go_well_is_told_with_its_remedy() -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[3:9, 4:14, 5] = 1
    label[10, 10, 10:12] = 2
    template = Template.of(label, 3)
    assert template == Template((8, 10, 7), (60, 2))
    few, tiny = remarks(Scans((20, 20, 20), (1, 1, 1), template, 1, 1))
    assert "add scans without a label" in few
    assert "class 2 of the template covers 2 voxels" in tiny and "finer spacing" in tiny
    assert not list(remarks(scans("brain")))


def test_a_plan_is_shown_and_read_back() -> None:
    plan = Plan((Decision("patch_size", (32, 48, 32), "fits"), Decision("num_rounds", 3, "as given")), 3700.0)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.flags == ["patch_size", "num_rounds"]
    assert plan.table().splitlines() == [
        "plan                    why",
        "--patch_size  32 48 32  fits",
        "--num_rounds  3         as given",
        "predicted time: 62 min",
    ]
