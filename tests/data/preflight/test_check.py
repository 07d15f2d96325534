"""Preflight: warnings, --check_only, and files that crash or hang the process that reads them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

import train_SemiSAM_O1
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preflight import inspection
from semisam_o1.data.preflight.check import check_training
from semisam_o1.data.preflight.inspection import Need
from tiny_cohort import train_flags, write_cohort


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_cohort(tmp_path / "data")


def set_attribute(root: Path, volume: str, name: str, value: object) -> None:
    with h5py.File(root / "data" / f"{volume}.h5", "r+") as file:
        file.attrs[name] = value


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "spacing": (
        lambda root: set_attribute(root, "train4", "spacing", (1.0, 1.5, 6.0)),
        "the spacing along z varies from 2 (train0) to 6 (train4) mm",
    ),
    "orientation": (
        lambda root: set_attribute(root, "val0", "direction", (-1.0, 0, 0, 0, 1, 0, 0, 0, 1)),
        "1 volume in another orientation than the template train0: val0",
    ),
    "the template among the unlabeled": (
        lambda root: shutil.copy(root / "data" / "train0.h5", root / "data" / "train3.h5"),
        "train0 and train3 hold the same image",
    ),
    "a test scan that is trained on": (
        lambda root: (root / "test.txt").write_text("test0\ntrain2\n"),
        "test.txt names 1 volume of train.txt",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_oddities_give_warnings(case: str, root: Path) -> None:
    assert check_training(Dataset(root), 1, 3).warnings == ()
    change, message = ODD[case]
    change(root)
    (warning,) = check_training(Dataset(root), 1, 3).warnings
    assert message in warning


def test_check_only_prints_a_summary_and_writes_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ODD["orientation"][0](root)
    before = sorted(tmp_path.rglob("*"))
    assert run_command(train_SemiSAM_O1.main, [*train_flags(root, tmp_path / "run"), "--check_only"]) == 0
    out = capsys.readouterr().out
    assert "1 labeled, 5 unlabeled, 1 validation volumes of 26–31 × 20 × 17 voxels" in out
    assert "labeled: train0\n" in out
    assert "warning: 1 volume in another orientation" in out
    assert f"run folder (new): {tmp_path / 'run_MT_1label_1' / 'unet_3D'}" in out
    assert out.endswith("checked; nothing was computed or written\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_check_only_lists_faults_with_exit_code_2(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "data" / "train1.h5").unlink()
    (root / "data" / "val0.h5").write_text("no scan")
    assert run_command(train_SemiSAM_O1.main, [*train_flags(root, tmp_path / "run"), "--check_only"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 2 faults in the dataset:\n")
    assert "train1.h5" in error
    assert "val0.h5" in error


FATAL = inspection.CHILD.replace(
    "serve()",
    "import os, time, semisam_o1.data.preflight.inspection as r; inspect = r.inspect; "
    "r.inspect = lambda d, n, need: os.abort() if n == 'train1' else time.sleep(99) if n == 'train2' "
    "else print('noise') or inspect(d, n, need); serve()",
)


def test_a_file_that_crashes_or_hangs_its_reader_is_a_fault_of_that_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "CHILD", FATAL)
    monkeypatch.setattr(inspection, "READ_TIMEOUT", 3.0)
    names = [f"train{i}" for i in range(6)]
    needs = [(name, Need(3, True, True)) for name in names]
    reports = dict(zip(names, inspection.inspect_all(Dataset(root), needs, 2), strict=True))
    assert "train1.h5 ends the process that reads it (signal 6)" in reports.pop("train1").faults[0]
    assert "train2.h5 could not be read in 3 s" in reports.pop("train2").faults[0]
    for name, report in reports.items():
        assert not report.faults
        assert (report.info.name, report.info.geometry.spacing) == (name, (1.0, 1.5, 2.0))


def test_child_processes_end_with_the_iterator(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = inspection.start_child
    monkeypatch.setattr(inspection, "start_child", lambda: started.append(start()) or started[-1])
    reports = inspection.inspect_all(Dataset(root), [(f"train{i}", Need(3, True, True)) for i in range(6)], 2)
    next(reports)
    reports.close()
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_child_processes_start_without_pytorch() -> None:
    script = "import sys, semisam_o1.data.preflight.inspection; print('torch' in sys.modules)"
    code = Path(train_SemiSAM_O1.__file__).parent
    assert subprocess.run([sys.executable, "-c", script], cwd=code, capture_output=True, text=True).stdout == "False\n"
