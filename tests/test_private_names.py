"""Git never offers to commit lists of the users' own scans, which name patients, or their runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_ignores_what_is_the_users_own_and_knows_what_is_shared(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    shared = {f"data/{name}/{part}.txt" for name in ("LA", "BraTS2019") for part in ("train", "val", "test")}
    weights = {"MT": "unet_3D", "UAMT": "unet_3D", "DAN": "unet_3D", "DTC": "unet_3D_sdf"}
    for run, model in weights.items():
        files = ("args.json", "round_tracking.json", f"{model}_best_model.pth")
        shared |= {f"model/LA_O1/{run}/{model}/{file}" for file in files}
    private = {"data/mine/train.txt", "data/mine/val.txt", "data/LA_half/train.txt", "data/LA/data/a.h5"}
    private |= {f"model/LA_O1/MT/{name}" for name in ("a.h5", "unet_3D/log.txt", "unet_3D_sdf/args.json")}
    private |= {f"model/{run}/unet_3D/unet_3D_best_model.pth" for run in ("mine_MT_1label_1", "LA_O1/x_MT_1label_1")}
    for name in shared | private:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    listing = ["git", "-C", tmp_path, "ls-files", "--others", "--exclude-standard", "data", "model"]
    offered = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    assert set(offered) == shared
