"""On a GPU a run finds out how to compute fastest, and keeps to it. Skipped where there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import train_SemiSAM_O1
from semisam_o1.core.device import resolve_device
from semisam_o1.core.errors import run_command
from semisam_o1.core.seeding import torch_generator
from semisam_o1.methods import METHODS, MethodOptions
from semisam_o1.networks import build_network
from semisam_o1.networks.kernels import Kernels
from semisam_o1.networks.layers import NORMS
from semisam_o1.pipeline import kernels as choice
from semisam_o1.training.tuning import Attempt, TrainingTrial
from tiny_cohort import train_flags, write_cohort

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.usefixtures("narrow_networks"),
]
FOUND = Kernels("channels_last", "moments")


@pytest.mark.parametrize("name", METHODS)
def test_every_candidate_computes_what_the_reference_computes(name: str) -> None:
    options = MethodOptions(max_iterations=10, num_classes=3)
    student = build_network(METHODS[name].network, options.num_classes, generator=torch_generator(0))
    trial = TrainingTrial(student, name, options, (2, 1, 32, 48, 32), 1, resolve_device("cuda"), "fp32")
    reference = trial.gradient(Kernels())
    assert reference.norm() > 0
    for kernels in (FOUND, *(Kernels(norm=norm) for norm in NORMS), Kernels(joined=False)):
        if kernels == FOUND:
            assert trial.seconds(kernels) > 0
        deviation = (trial.gradient(kernels) - reference).norm() / reference.norm()
        assert deviation < 1e-3


def start(root: Path, exp: Path, capsys: pytest.CaptureFixture[str], *more: str, **flags: object) -> str:
    """Train and return what was printed."""
    command = [*train_flags(root, exp, device="cuda", max_iterations=2, **flags), *more]
    assert run_command(train_SemiSAM_O1.main, command) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def kept(exp: Path) -> dict:
    (path,) = exp.parent.glob(f"{exp.name}_*/*/args.json")
    return json.loads(path.read_text())["kernels"]


def test_a_run_keeps_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "fastest", lambda *_: (FOUND, [Attempt(Kernels(), 0.2, "reference")]))
    root = write_cohort(tmp_path / "data")
    assert "reference" in start(root, tmp_path / "first", capsys)
    assert kept(tmp_path / "first")["norm"] == "moments"
    monkeypatch.setattr(choice, "fastest", lambda *_: pytest.fail("it is known already"))
    assert "as found before" in start(root, tmp_path / "second", capsys)
    assert kept(tmp_path / "second") == kept(tmp_path / "first")
    start(root, tmp_path / "off", capsys, tune="off")
    assert kept(tmp_path / "off")["norm"] == "native"
    (tmp_path / "cache" / "semisam_o1" / "kernels.json").write_text("{")
    start(root, tmp_path / "second", capsys, "--resume", num_rounds=2)
    assert kept(tmp_path / "second") == kept(tmp_path / "first")


def test_a_run_tries_all_candidates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    (tmp_path / "no folder").write_text("a file")
    out = start(write_cohort(tmp_path / "data"), tmp_path / "run", capsys)
    assert "contiguous layout, native normalization" in out
    assert Kernels.from_json(kept(tmp_path / "run")) is not None
