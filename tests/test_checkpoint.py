"""Weights and states on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semisam_o1.errors import InputError, RunError
from semisam_o1.tensor_file import load_tensors
from semisam_o1.training.checkpoint import load_state, load_weights, previous, save, save_state


def test_a_damaged_state_falls_back_to_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "state.pth"
    assert load_state(path) is None
    save_state({"iteration": 1, "student": {"w": torch.ones(3)}}, path)
    save_state({"iteration": 2, "student": {"w": torch.ones(3)}}, path)
    assert load_state(path)["iteration"] == 2
    path.write_bytes(path.read_bytes()[:200])
    assert load_state(path)["iteration"] == 1
    path.unlink()  # a kill between the two renames
    assert load_state(path)["iteration"] == 1
    previous(path).unlink()
    assert load_state(path) is None


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.pth"
    save({"w": torch.ones(2)}, path)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(RunError, match=r"best\.pth cannot be written .*No space left"):
        save({"w": torch.zeros(2)}, path)
    assert torch.equal(load_tensors(path)["w"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


class Malicious:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("pwned"),))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"bad\.pth cannot be read as a checkpoint"):
        load_tensors(tmp_path / "bad.pth")
    assert not (tmp_path / "pwned").exists()


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    torch.save({"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(InputError) as error:
        load_weights(network, tmp_path / "w.pth")
    for fault in ("bias is missing", "scale is not expected", "weight is (2, 4) and should be (2, 3)"):
        assert fault in str(error.value)
