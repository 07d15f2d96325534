"""What a run is expected to keep in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from semisam_o1.data.dataset.volumes import Geometry
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.preflight.inspection import VolumeInfo
from semisam_o1.methods import METHODS
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.memory import memory_needed

SHAPES = {"a": (10, 20, 30), "b": (20, 20, 30), "c": (100, 100, 100), "d": (10, 10, 10)}


@pytest.mark.parametrize(
    ("flags", "beside"),
    [
        ({}, 1_012_000),  # a byte per voxel of pseudo-label
        ({"confidence_weights": True}, 2 * 1_012_000),
        ({"augmentation": ("template",)}, 1_012_000 + 12 * (12_000 + 500_000)),
    ],
)
def test_all_that_is_kept_with_the_volumes_counts(flags: dict, beside: int, tmp_path: Path) -> None:
    config = TrainConfig(root_path=tmp_path, backbone="mt", patch_size=(32, 32, 16), batch_size=3, **flags)
    info = {name: VolumeInfo(name, shape, "", None, Geometry()) for name, shape in SHAPES.items()}
    cohort = Cohort(("a",), ("b", "c"), ("d",), info)
    found = {precision: memory_needed(config, cohort, precision) for precision in ("fp32", "bf16", "fp16")}
    assert {kept - cohort.nbytes for kept, _ in found.values()} == {beside}
    steps = {precision: step for precision, (_, step) in found.items()}
    assert steps["fp32"] == METHODS["mt"].step_bytes(32 * 32 * 16, 1, 2, 2, half=False)
    assert steps["bf16"] == steps["fp16"] == METHODS["mt"].step_bytes(32 * 32 * 16, 1, 2, 2, half=True)
