"""Weights and states on disk."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from malicious import Malicious, bare_pickle, bomb, legacy, script, tar, zipped
from semisam_o1.core.errors import InputError, RunError
from semisam_o1.core.safe_load import load_tensors
from semisam_o1.training.checkpoint import load_state, load_weights, previous, save


def state(iteration: int, round_: int = 1) -> dict:
    return {
        "round": round_, "seed": 5, "iteration": iteration, "student": {"w": torch.full((300,), float(iteration))},
        "method": {}, "optimizer": {}, "best": None,
    }  # fmt: skip


def newest(path: Path, round_: int = 1) -> int | None:
    found = load_state(path, round_)[0]
    return found and found["iteration"]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit_of_a_weight(content: bytes) -> bytes:
    values = next(v for v in (1, 2) if np.float32(v).tobytes() * 10 in content)
    place = content.index(np.float32(values).tobytes() * 10) + 8
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [cut, flip_a_bit_of_a_weight, lambda content: b"", lambda content: content[:-1]])
def test_a_damaged_state_falls_back_to_the_one_before(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "state.pth"
    assert newest(path) is None
    save(state(1), path, keep=previous(path))
    save(state(2), path, keep=previous(path))
    assert newest(path) == 2
    path.write_bytes(damage(path.read_bytes()))
    found, faults = load_state(path, 1)
    assert found["iteration"] == 1
    assert len(faults) == 1
    assert str(path) in faults[0]
    previous(path).write_bytes(damage(previous(path).read_bytes()))
    assert newest(path) is None


def test_a_kill_between_the_renames_loses_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pth"
    save(state(1), path, keep=previous(path))
    save(state(2), path, keep=previous(path))
    rename = Path.replace
    for survived in range(2):

        def die(self: Path, target: Path, left: list[int] = [survived]) -> Path:  # noqa: B006
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            save(state(3 + survived), path, keep=previous(path))
        monkeypatch.undo()
        assert newest(path) == 2


def test_a_state_of_another_round_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "state.pth"
    save(state(7, round_=1), path, keep=previous(path))
    save(state(3, round_=2), path, keep=previous(path))
    assert (newest(path, 1), newest(path, 2), newest(path, 3)) == (7, 3, None)
    save({"round": 2}, path)
    assert newest(path, 2) is None
    assert "no training state" in load_state(path, 2)[1][0]


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.pth"
    save({"w": torch.ones(2)}, path)

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RunError, match=r"best\.pth cannot be written: the disk is full .*No space left"):
        save({"w": torch.zeros(2)}, path)
    assert torch.equal(load_tensors(path)["w"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [zipped, legacy, bare_pickle, tar, script, bomb])
def test_nothing_is_unpickled_or_run(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"bad\.pth"):
        load_tensors(tmp_path / "bad.pth")
    assert not (tmp_path / "pwned").exists()


def test_the_malice_of_these_tests_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Malicious()))
    assert (tmp_path / "pwned").exists()


def test_files_of_the_format_before_zip_are_read(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(5)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load_tensors(tmp_path / "old.pth")["w"], torch.arange(5))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK\x03\x04 and nothing else"),
        lambda path: path.write_text("<html>404</html>"),
    ],
)
def test_what_is_no_checkpoint_is_named(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "no.pth")
    with pytest.raises(InputError, match=r"no\.pth"):
        load_tensors(tmp_path / "no.pth")


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    torch.save({"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(InputError) as error:
        load_weights(network, tmp_path / "w.pth")
    for fault in ("bias is missing", "scale is not expected", "weight is (2, 4) and should be (2, 3)"):
        assert fault in str(error.value)


@pytest.mark.parametrize("bias", [torch.tensor([0, torch.nan]), [1.0, 2.0], torch.zeros(2).to_sparse()])
def test_weights_must_be_finite_dense_tensors(bias: object, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, 3), "bias": bias}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth.*bias (is no tensor|holds values that are NaN)"):
        load_weights(torch.nn.Linear(3, 2), tmp_path / "w.pth")
