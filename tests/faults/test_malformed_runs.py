"""Malformed checkpoints and remains of runs: exit code 2, a sentence with the file, no traceback, nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import test_baseline
import train_SemiSAM_O1
from malformed import (
    Spoil,
    cut,
    instead,
    refused,
    text,
)
from malicious import bomb, script, tar, zipped
from semisam_o1.networks import build_network
from tiny_cohort import train_flags


def save(content: object) -> Spoil:
    return lambda path: torch.save(content, path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def foreign(path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, path)


def with_nan(path: Path) -> None:
    weights = torch.load(path, weights_only=True)
    weights["final.bias"][0] = torch.nan
    torch.save(weights, path)


def prefixed(path: Path) -> None:
    """Weights under a prefix that nobody knows, which are not quietly taken for something else."""
    torch.save({f"backbone.{key}": v for key, v in torch.load(path, weights_only=True).items()}, path)


CHECKPOINTS: dict[str, Spoil] = {
    "missing": Path.unlink,
    "empty": text(""),
    "a web page": text("<html>Not found</html>"),
    "a folder": instead(Path.mkdir),
    "half": cut(0.5),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one bit wrong": flip,
    "a program": zipped,
    "TorchScript": script,
    "tar": tar,
    "compressed": bomb,
    "a list": save([1, 2]),
    "a number": save(7),
    "no tensors": save({"a": 1}),
    "another network": foreign,
    "NaN": with_nan,
    "other names": prefixed,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "unet_3D_best_model.pth"
    torch.save(build_network("unet_3D", 3).state_dict(), path)
    return path


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints_to_test(
    case: str, trained: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine" / "unet_3D" / trained.name
    path.parent.mkdir(parents=True)
    shutil.copy(trained, path)
    CHECKPOINTS[case](path)
    flags = ["--root_path", cohort, "--exp", tmp_path / "mine", "--num_classes", 3, "--patch_size", 32, 16, 16]
    error = refused(test_baseline.main, [*flags, "--device", "cpu", "--ckpt", path], capsys)
    assert trained.name in error
    assert error.count("\n") == 1
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("case", [case for case in CHECKPOINTS if case not in ("NaN", "other names", "one bit wrong")])
def test_foundation_checkpoints(
    case: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sam.pth"
    torch.save({"model_state_dict": {"image_encoder.pos_embed": torch.zeros(2)}}, path)
    CHECKPOINTS[case](path)
    flags = train_flags(root, tmp_path / "run", propagation="prototype", features="sam", sam_ckpt=path)
    assert "sam.pth" in refused(train_SemiSAM_O1.main, flags, capsys)
    assert not list(tmp_path.glob("run*"))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"arguments": 3}', '{"arguments": {}}', "\0" * 50])
def test_arguments_of_a_run_to_go_on_with(
    content: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run_MT_1label_1" / "unet_3D"
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(content)
    error = refused(train_SemiSAM_O1.main, [*train_flags(root, tmp_path / "run"), "--resume"], capsys)
    assert "args.json" in error
    assert (folder / "args.json").read_text() == content


def test_a_state_of_an_unknown_run(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run_MT_1label_1" / "unet_3D"
    folder.mkdir(parents=True)
    (folder / "state.pth").touch()
    error = refused(train_SemiSAM_O1.main, [*train_flags(root, tmp_path / "run"), "--resume"], capsys)
    assert "args.json is missing" in error
