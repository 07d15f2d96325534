"""What a run is planned with: only what was not given, and the rest follows what was."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Geometry
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.preflight.inspection import VolumeInfo
from semisam_o1.pipeline import planning
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.planning import as_planned, plan_run
from semisam_o1.plan.decisions import Plan
from semisam_o1.plan.facts import Machine, Scans, Template

LAPTOP, GPU = Machine(False, 6 * 2**30, 2, "bf16"), Machine(True, 80 * 2**30, 16, "bf16")
SIZE = (97, 72, 44)
SCANS = Scans(SIZE, (1.25, 1.25, 1.25), Template((76, 43, 30), (19_000,)), 1, 19, 5, region=200_000, searched=25_000)


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every training step take a second, half of it in float32; return the precisions that were timed."""
    timed: list[str] = []

    def step_seconds(config: TrainConfig, cohort: Cohort, device: torch.device, precision: str) -> float:
        timed.append(precision)
        return 0.5 if precision == "fp32" else 1.0

    monkeypatch.setattr(planning, "step_seconds", step_seconds)
    return timed


def plan(tmp_path: Path, machine: Machine = LAPTOP, scans: Scans = SCANS, **given: object) -> tuple[TrainConfig, Plan]:
    names = [f"s{i}" for i in range(25)]
    cohort = Cohort(
        tuple(names[:1]), tuple(names[1:20]), tuple(names[20:]),
        {name: VolumeInfo(name, SIZE, name, None, Geometry()) for name in names},
    )  # fmt: skip
    config = TrainConfig(root_path=tmp_path, sam_ckpt=tmp_path / "none.pth", **given)
    return plan_run(config, cohort, scans, machine, torch.device("cpu"))


def test_the_published_settings_are_not_planned(tmp_path: Path, steps: list[str]) -> None:
    config, found = plan(tmp_path, GPU)
    assert found is None and not steps
    assert config == TrainConfig(root_path=tmp_path, sam_ckpt=tmp_path / "none.pth")
    config, found = plan(tmp_path, GPU, hours=2)
    assert found.flags == ["max_iterations", "num_rounds", "val_interval"]
    assert config.patch_size == (128, 128, 128)
    assert 0.8 * 7200 <= found.seconds <= 7200


def test_best_plans_what_is_not_given(tmp_path: Path, steps: list[str]) -> None:
    config, found = plan(tmp_path, recipe="best")
    assert steps == ["bf16", "fp32"]
    assert (config.patch_size, config.val_stride, config.orientations) == ((80, 64, 48), 32, "none")
    assert (config.precision, config.max_iterations, config.num_rounds, config.val_interval) == ("fp32", 500, 3, 50)
    assert all(decision.reason for decision in found.decisions)
    assert next(d for d in found.decisions if d.flag == "cache").reason.endswith("of volumes fit in RAM")
    assert {flag: getattr(config, flag) for flag in found.flags} == {d.flag: d.value for d in found.decisions}


def test_a_flag_takes_the_place_of_its_line_and_the_rest_follows(tmp_path: Path, steps: list[str]) -> None:
    given = {"patch_size": (48, 48, 32), "max_iterations": 700, "base_lr": 0.02, "precision": "bf16"}
    config, found = plan(tmp_path, recipe="best", **given)
    assert {flag: getattr(config, flag) for flag in given} == given
    assert (config.val_stride, config.num_rounds, config.val_interval) == (16, 3, 70)
    assert {d.flag for d in found.decisions if d.reason == "as given"} == {"patch_size", "max_iterations", "base_lr"}
    assert not steps, "nothing has to be timed"


def test_a_gpu_trains_the_published_length(tmp_path: Path, steps: list[str]) -> None:
    config, found = plan(tmp_path, GPU, recipe="best")
    assert (config.max_iterations, config.num_rounds, config.val_interval) == (15000, 3, 200)
    assert config.patch_size == (96, 64, 48) and found.seconds is None and not steps


def test_headers_of_several_orientations_turn_all_patches(tmp_path: Path) -> None:
    config, _ = plan(tmp_path, scans=dataclasses.replace(SCANS, turned=True), recipe="best")
    assert config.orientations == "all"


def test_registrations_that_are_kept_leave_time_for_training(tmp_path: Path) -> None:
    lengths = []
    for registered in (0, 19):
        config, found = plan(
            tmp_path,
            scans=dataclasses.replace(SCANS, registered=registered, searched=400_000),
            recipe="best",
            hours=0.5,
        )
        assert 0.8 * 1800 <= found.seconds <= 1800
        lengths.append(config.max_iterations)
    assert lengths[0] < lengths[1]


def test_a_patch_beyond_memory_is_refused_before_a_step(tmp_path: Path, steps: list[str]) -> None:
    with pytest.raises(InputError, match=r"patches of 256 256 256 needs about .* --patch_size 80 64 48 fits"):
        plan(tmp_path, recipe="best", patch_size=(256, 256, 256))
    assert not steps


def test_a_run_that_goes_on_keeps_its_plan(tmp_path: Path) -> None:
    previous = {"planned": ["patch_size", "max_iterations"], "arguments": {"patch_size": [32, 48, 32]}}
    previous["arguments"] |= {"max_iterations": 300, "base_lr": 0.5}
    config = as_planned(TrainConfig(root_path=tmp_path, recipe="best", max_iterations=400), previous)
    assert (config.patch_size, config.max_iterations, config.base_lr) == ((32, 48, 32), 400, 0.1)
    assert config.zooms == (1.0,), "there was no such flag when the run was started, whose recipe has one now"
    given = TrainConfig(root_path=tmp_path, recipe="best", zooms=(0.9, 1.1))
    assert as_planned(given, previous).zooms == (0.9, 1.1)


def test_the_workload_counts_every_size_that_is_predicted(tmp_path: Path) -> None:
    cohort = Cohort(("a",), ("b", "c"), ("v",), {n: VolumeInfo(n, SIZE, n, None, Geometry()) for n in "abcv"})
    config = TrainConfig(root_path=tmp_path, patch_size=(80, 64, 48), val_stride=32)
    window = 80 * 64 * 48
    work = planning.workload(config, cohort, SCANS)
    assert (work.validation, work.relabeling) == (4 * window, 2 * 4 * window)
    work = planning.workload(replace(config, zooms=(1.0, 0.8, 1.2), calibrate=True), cohort, SCANS)
    assert (work.validation, work.relabeling) == (4 * window, (2 + 2) * (4 + 1 + 12) * window)
    scans = replace(SCANS, region_size=(1, 8, 44))  # half a patch around it is predicted: 81 × 72 × 44 of 97 × 72 × 44
    for refinement, windows in (("knn", 4), ("fusion", 4), ("fusion", 2)):
        work = planning.workload(replace(config, refinement=refinement), cohort, scans)
        assert work.relabeling == 2 * windows * window
        scans = replace(scans, region_size=(1, 0, 44)) if refinement == "fusion" else scans
