"""A dataset to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tiny_cohort import write_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def root(cohort: Path, tmp_path: Path) -> Path:
    return shutil.copytree(cohort, tmp_path / "dataset")
