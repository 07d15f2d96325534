"""Lists of the users' own scans name patients: git never offers to commit them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_ignores_the_lists_of_users_and_knows_those_of_public_data_sets(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    shared = {f"data/{name}/{part}.txt" for name in ("LA", "BraTS2019") for part in ("train", "val", "test")}
    private = {"data/mine/train.txt", "data/mine/val.txt", "data/LA_half/train.txt", "data/LA/data/a.h5"}
    for name in shared | private:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    listing = ["git", "-C", tmp_path, "ls-files", "--others", "--exclude-standard", "data"]
    offered = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    assert set(offered) == shared
