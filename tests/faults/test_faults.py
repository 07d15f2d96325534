"""What goes wrong while training: named, with nothing lost."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import train_SemiSAM_O1
from narrow_networks import narrow
from semisam_o1.core import atomic_io as files
from semisam_o1.core.errors import run_command
from semisam_o1.training.checkpoint import load_state
from semisam_o1.training.trainer import RoundTrainer
from tiny_cohort import train_flags, write_cohort

pytestmark = pytest.mark.usefixtures("narrow_networks")
SETTINGS = {"state_interval": 0, "log_images": 0, "precision": "fp32"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("tiny"))


def train(root: Path, exp: Path, *flags: str, **changes: object) -> int:
    return run_command(
        train_SemiSAM_O1.main, [*train_flags(root, exp, **{**SETTINGS, **changes}), *flags], train_SemiSAM_O1.HINTS
    )


def folder(exp: Path) -> Path:
    return exp.parent / f"{exp.name}_MT_1label_1" / "unet_3D"


def best(exp: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder(exp) / "unet_3D_best_model.pth", weights_only=True)


def same(first: Path, second: Path) -> bool:
    a, b = best(first), best(second)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def whole(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run."""
    exp = tmp_path_factory.mktemp("unbroken") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch)
        assert train(cohort, exp) == 0
    return exp


def at_iteration(number: int, do: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    step = RoundTrainer.train_step

    def step_and_do(self: RoundTrainer, batch: object) -> None:
        step(self, batch)
        if self.iteration == number:
            do()

    monkeypatch.setattr(RoundTrainer, "train_step", step_and_do)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_state_too_large_for_the_disk(
    whole: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    step, before = RoundTrainer.train_step, resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = (folder(whole) / "state.pth").stat().st_size // 2
    at_iteration(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1])), monkeypatch)
    try:
        assert train(cohort, tmp_path / "cut") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert "state.pth cannot be written: the disk is full or a quota is used up" in error
    assert "--resume" in error
    assert "Traceback" not in error
    run = folder(tmp_path / "cut")
    assert load_state(run / "state.pth", 1)[0]["iteration"] == 2
    assert not list(run.rglob("*.partial"))
    monkeypatch.setattr(RoundTrainer, "train_step", step)
    assert train(cohort, tmp_path / "cut", "--resume") == 0
    assert same(whole, tmp_path / "cut")


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_write(
    whole: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Path.write_bytes
    left, exp = 0, tmp_path / "cut"

    def full_later(self: Path, content: bytes) -> int:
        nonlocal left
        left -= 1
        if left < 0:  # half of it still fits
            write(self, bytes(content)[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write(self, content)

    for number in range(200):
        shutil.rmtree(exp.parent / "cut_MT_1label_1", ignore_errors=True)
        left = number
        monkeypatch.setattr(files.Path, "write_bytes", full_later)
        code = train(cohort, exp)
        monkeypatch.setattr(files.Path, "write_bytes", write)
        if code == 0:
            break
        error = capsys.readouterr().err
        assert code == 1, error
        assert "cannot be written: the disk is full" in error
        assert not list(folder(exp).rglob("*.partial"))
        assert train(cohort, exp, "--resume") == 0, capsys.readouterr().err
        assert same(whole, exp), f"write {number}"
    assert number > 15, "a run writes more files than that"


def test_a_diverging_run_names_iteration_and_volumes_and_keeps_the_state_before(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(cohort, tmp_path / "run", base_lr=1e25) == 1
    error = capsys.readouterr().err
    assert "not finite; the batch came from train0, train" in error
    assert "round 1, iteration 2: " in error
    assert "the state saved after iteration 1 is kept" in error
    assert "Traceback" not in error
    state = load_state(folder(tmp_path / "run") / "state.pth", 1)[0]
    assert state["iteration"] == 1
    assert all(torch.isfinite(value).all() for value in state["student"].values())


def test_weights_that_are_not_finite_are_never_saved(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = RoundTrainer.train_step

    def step_and_spoil(self: RoundTrainer, batch: object) -> None:
        step(self, batch)
        if self.iteration == 3:
            next(self.student.parameters()).data.view(-1)[0] = torch.inf

    monkeypatch.setattr(RoundTrainer, "train_step", step_and_spoil)
    assert train(cohort, tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "iteration 3: the network's weights are not finite" in error
    assert load_state(folder(tmp_path / "run") / "state.pth", 1)[0]["iteration"] == 2


def test_out_of_memory_names_the_flags_that_help(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("semisam_o1.pipeline.planning.available_memory", lambda: 2**70)  # else it is refused at once
    assert train(cohort, tmp_path / "run", patch_size="65536 65536 65536") == 1
    error = capsys.readouterr().err
    assert "out of memory" in error
    assert all(flag in error for flag in ("--patch_size", "--batch_size", "--cache", "--precision"))
    assert error.count("\n") == 1


def test_a_dataset_that_cannot_be_written_to(
    whole: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(cohort, tmp_path / "data", ignore=shutil.ignore_patterns("features"))
    (root / "features").touch()  # works for root, too, whom no permission stops
    for path in [root, root / "data"]:
        path.chmod(0o555)
    before = sorted(root.rglob("*"))
    try:
        assert train(root, tmp_path / "run") == 0, capsys.readouterr().err
        assert "6 computed" in capsys.readouterr().out
        assert train(root, tmp_path / "run", "--resume") == 0
        assert "6 found on disk" in capsys.readouterr().out
    finally:
        for path in [root, root / "data"]:
            path.chmod(0o755)
    assert sorted(root.rglob("*")) == before
    assert len(list((folder(tmp_path / "run") / "cache").glob("builtin*/*.npz"))) == 6
    assert same(whole, tmp_path / "run")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_volume_that_vanishes_while_training(
    workers: int, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(cohort, tmp_path / "data")

    def vanish() -> None:
        for i in range(1, 6):
            (root / "data" / f"train{i}.h5").unlink(missing_ok=True)

    at_iteration(1, vanish, monkeypatch)
    changes = {"cache": "none", "num_workers": workers, "max_iterations": 30, "val_interval": 30}
    assert train(root, tmp_path / "run", **changes) == 1
    error = capsys.readouterr().err
    assert "is missing; put it there" in error
    assert "it was good when the run started" in error
    assert "Traceback" not in error
    assert error.strip().count("\n") == 0


@pytest.mark.parametrize("damage", ["last round", "round 0", "every state"])
def test_damaged_files_of_a_run_are_made_anew(
    damage: str, whole: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exp = tmp_path / "cut"
    shutil.copytree(folder(whole), folder(exp))
    before = load_state(folder(exp) / "state.pth", 1)[0]
    (folder(exp) / "unet_3D_best_model.pth").unlink()
    spoilt = {
        "last round": ["pseudo_labels/round1.h5"],
        "round 0": ["pseudo_labels/round0.h5", "pseudo_labels/round1.h5"],
        "every state": ["pseudo_labels/round1.h5", "state.pth", "state_previous.pth"],
    }[damage]
    for name in spoilt:
        path = folder(exp) / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 200] = np.random.default_rng(1).bytes(200)
        path.write_bytes(content)
    assert train(cohort, exp, "--resume") == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert all(f"warning: {folder(exp) / name}" in out for name in spoilt)
    assert same(whole, exp)
    assert before["iteration"] == 4


def test_features_that_are_damaged_are_computed_anew(
    whole: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(cohort, tmp_path / "data")
    kept = sorted((root / "features").glob("builtin*/*.npz"))
    for path in (root / "features").glob("atlas*/*.npz"):
        path.write_bytes(path.read_bytes()[:-30])
    kept[0].write_bytes(b"")
    kept[1].write_bytes(kept[1].read_bytes()[:-30])
    arrays = dict(np.load(kept[2]))
    np.savez(kept[2], **{**arrays, "whole": arrays["whole"] * np.nan})
    np.savez(kept[3], **{**arrays, "spatial": arrays["spatial"][0]})
    np.savez_compressed(kept[4], **arrays)
    assert train(root, tmp_path / "run") == 0
    assert "1 found on disk, 5 computed" in capsys.readouterr().out
    assert same(whole, tmp_path / "run")
