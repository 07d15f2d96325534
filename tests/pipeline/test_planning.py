"""The plan of a run: the patch and the levels of the network suit the scans and each other."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from semisam_o1.core.flags import patch_faults
from semisam_o1.networks.levels import ISOTROPIC, divisors
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.planning import _patch_and_levels
from semisam_o1.plan.facts import Scans

HEART = "331/221 333/222 333/221 333/221"


def config(tmp_path: Path, **given: object) -> TrainConfig:
    return TrainConfig(recipe="best", root_path=tmp_path, **given)


def test_a_patch_shows_whole_slices_and_no_padding_where_slices_are_thick(tmp_path: Path) -> None:
    scans = Scans((81, 96, 10), (4.0, 4.0, 10.0))
    for given in ({}, {"network_levels": "auto"}):
        best = config(tmp_path, **given)
        assert _patch_and_levels(best, scans, 80 * 64 * 48, best.given) == ((80, 96, 10), HEART)
    best = config(tmp_path, patch_size=(64, 64, 16), network_levels=ISOTROPIC)
    assert _patch_and_levels(best, scans, 80 * 64 * 48, best.given) == ((64, 64, 16), ISOTROPIC)
    best = config(tmp_path, backbone="dan")
    assert _patch_and_levels(best, scans, 80 * 64 * 48, best.given) == ((80, 96, 16), ISOTROPIC)


@pytest.mark.parametrize("seed", range(3))
def test_a_planned_patch_can_be_halved_as_planned(seed: int, tmp_path: Path) -> None:
    generator, best = np.random.default_rng(seed), config(tmp_path)
    for _ in range(100):
        size = tuple(generator.integers(4, (300, 300, 120)).tolist())
        spacing = tuple(np.exp(generator.uniform(-0.7, 2.3, 3)).tolist())
        voxels = int(np.exp(generator.uniform(9, 14)))
        patch, levels = _patch_and_levels(best, Scans(size, spacing), voxels, best.given)
        assert not patch_faults(patch, divisors(levels))
        assert math.prod(patch) <= voxels
