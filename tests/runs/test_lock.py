"""Two runs never share a folder, and the lock of a dead one does not count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import train_SemiSAM_O1
from semisam_o1.core.errors import InputError, run_command
from semisam_o1.runs.layout import RunFolder, RunLock
from tiny_cohort import train_flags, write_cohort

CODE = Path(__file__).resolve().parents[2] / "code"
HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from semisam_o1.runs.layout import RunLock
with RunLock(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the lock of ``tmp_path / 'run'``."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(CODE), str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_folder_in_use_is_refused_and_its_user_named(holder: subprocess.Popen, tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "run")
    for attempt in (lock.check, lock.__enter__):
        with pytest.raises(InputError, match=rf"in use by another run \(process {holder.pid} on .*, since 20"):
            attempt()


def test_the_lock_of_a_killed_process_is_taken_over(holder: subprocess.Popen, tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    RunLock(tmp_path / "run").check()
    with RunLock(tmp_path / "run") as lock:
        assert f"process {holder.pid}" in lock.left_by
        assert json.loads((tmp_path / "run" / ".lock.json").read_text())["pid"] == os.getpid()
    with RunLock(tmp_path / "run") as lock:
        assert not lock.left_by, "the one before ended in order"


def test_a_lock_does_not_make_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", "unet_3D")
    with RunLock(folder.path):
        folder.check(resume=False, overwrite=False)
        folder.create(overwrite=True)
        (folder.path / "x.pth").touch()
        folder.create(overwrite=True)
        assert {path.name for path in folder.path.iterdir()} == {".lock", ".lock.json", "pseudo_labels", "figures"}


@pytest.mark.parametrize("flag", [[], ["--resume"], ["--overwrite"], ["--check_only"]])
def test_the_command_refuses_a_run_in_progress(
    flag: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*train_flags(write_cohort(tmp_path / "data"), tmp_path / "run"), *flag]
    folder = tmp_path / "run_MT_1label_1" / "unet_3D"
    with RunLock(folder):
        before = sorted(folder.iterdir())
        assert run_command(train_SemiSAM_O1.main, flags) == 2
        assert "is in use by another run" in capsys.readouterr().err
        assert sorted(folder.iterdir()) == before
