"""A GPU computes what the CPU computes, and an iteration waits for nothing. Skipped where there is no GPU.

``test_pretended_gpu.py`` runs these tests without one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import test_baseline
import train_SemiSAM_O1
from balls import scan
from method_helpers import SHAPE, make_batch, make_method, train_step
from semisam_o1.core.device import autocast, resolve_device
from semisam_o1.core.errors import run_command
from semisam_o1.data.sampling.augmentation import Augmentation
from semisam_o1.data.sampling.batches import Batch, BatchSettings, BatchStream
from semisam_o1.data.sampling.fields import signed_distances
from semisam_o1.methods import METHODS
from semisam_o1.networks import build_network
from semisam_o1.propagation import registration as registration_module
from semisam_o1.propagation.atlas import AtlasPropagation, Template
from semisam_o1.training.prefetch import on_device
from semisam_o1.training.trainer import RoundTrainer
from tiny_cohort import train_flags, write_cohort
from volume_source import Source

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(autouse=True)
def device() -> torch.device:
    """The device as the commands select it, and with their settings."""
    return resolve_device("cuda")


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Raise where the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("name", METHODS)
def test_an_iteration_waits_for_nothing(name: str, device: torch.device, request: pytest.FixtureRequest) -> None:
    student = build_network(METHODS[name].network, 3).cuda().train()
    method, batch = make_method(name, student, classes=3), make_batch(classes=3).to(device)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    for t in range(3):
        if t == 1:  # libraries and tables are set up in the first
            request.getfixturevalue("no_waiting")
        with autocast("cuda", "bf16"):
            terms = method.losses(student, batch, t)
        optimizer.zero_grad()
        sum(term.value * term.weight for term in terms.values()).backward()
        optimizer.step()
        method.after_step(student, batch, t)


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("name", METHODS)
def test_the_losses_are_those_of_the_cpu(name: str) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        network = build_network(METHODS[name].network, 3, dropout=0.0, generator=torch.Generator().manual_seed(1))
        student = network.to(device).train()
        torch.manual_seed(1)
        method = make_method(name, student, classes=3, noise=0, dropout=0, use_teacher=True)
        with torch.no_grad():  # so that student and teacher disagree
            for parameter in getattr(method, "teacher", torch.nn.Module()).parameters():
                parameter.mul_(1.2)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
        batch = make_batch(classes=3).to(torch.device(device))
        losses = train_step(method, student, optimizer, batch, 5)
        state = [value.cpu() for value in method.eval_model(student).state_dict().values()]
        found[device] = losses, torch.cat([value.flatten() for value in state])
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], abs=2e-3)
    torch.testing.assert_close(found["cuda"][1], found["cpu"][1], atol=1e-3, rtol=1e-2)


def test_distance_maps_are_those_of_the_cpu() -> None:
    label = make_batch(classes=3).label
    torch.testing.assert_close(signed_distances(label.cuda(), 3).cpu(), signed_distances(label, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(spatial=True)])
def test_batches_from_the_gpu_are_those_of_the_cpu(augmentation: Augmentation, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(1)
    images = {name: torch.randn(20, 34, 18, generator=generator) for name in "ab"}
    settings = BatchSettings(SHAPE, 1, 2, length=6, seed=(3,), augmentation=augmentation)
    devices = (torch.device("cpu"), device)
    images = {place: {name: image.to(place) for name, image in images.items()} for place in devices}
    labels = {d: {name: (image > 0.5).to(torch.uint8) for name, image in images[d].items()} for d in devices}
    streams = [
        BatchStream(["a"], ["b"], Source(images[place].__getitem__, labels[place].__getitem__), settings)
        for place in devices
    ]
    made_ahead = on_device(streams[1], range(6), device, 0)
    for t, batch in enumerate(made_ahead):
        wanted = streams[0][t]
        assert batch.image.device.type == "cuda"
        torch.testing.assert_close(batch.image.cpu(), wanted.image, atol=1e-3, rtol=1e-3)
        assert (batch.label.cpu() != wanted.label).float().mean() < 1e-3


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize(("cache", "registration"), [("gpu", "on"), ("ram", "off"), ("none", "off")])
def test_the_commands(
    cache: str, registration: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registration_module, "SEARCH_STEPS", 1)  # many small kernels take long where they are pretended
    monkeypatch.setattr(registration_module, "REFINEMENT_STEPS", 2)
    root, exp = write_cohort(tmp_path / "data"), tmp_path / "run"
    flags = train_flags(root, exp, device="cuda", cache=cache, registration=registration)
    assert run_command(train_SemiSAM_O1.main, flags) == 0, capsys.readouterr().err
    flags = ["--root_path", str(root), "--exp", str(exp), "--backbone", "mt", "--device", "cuda"]
    assert run_command(test_baseline.main, flags) == 0, capsys.readouterr().err


@pytest.mark.usefixtures("narrow_networks")
def test_a_published_run(filled_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, exp = write_cohort(tmp_path / "data"), tmp_path / "run"
    published = {"backbone": "uamt", "propagation": "prototype", "features": "sam", "sam_ckpt": filled_checkpoint}
    flags = train_flags(root, exp, device="cuda", **published)
    assert run_command(train_SemiSAM_O1.main, flags) == 0, capsys.readouterr().err
    log = (tmp_path / "run_UAMT_1label_1" / "unet_3D" / "log.txt").read_text(encoding="utf-8")
    assert "6 computed" in log


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_stopped_run_continues(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, step = write_cohort(tmp_path / "data"), RoundTrainer.train_step

    def step_and_stop(trainer: RoundTrainer, batch: Batch) -> None:
        step(trainer, batch)
        if trainer.iteration == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    flags = {
        name: train_flags(root, tmp_path / name, backbone="dan", device="cuda", precision=precision)
        for name in ("whole", "cut")
    }
    assert run_command(train_SemiSAM_O1.main, flags["whole"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(RoundTrainer, "train_step", step_and_stop)
        assert run_command(train_SemiSAM_O1.main, flags["cut"]) == 130
    assert run_command(train_SemiSAM_O1.main, [*flags["cut"], "--resume"]) == 0
    whole, cut = (
        torch.load(tmp_path / f"{name}_DAN_1label_1" / "unet_3D" / "state.pth", weights_only=True) for name in flags
    )
    assert whole["iteration"] == cut["iteration"] == 4
    assert whole["scaler"] == cut["scaler"]
    assert bool(whole["scaler"]) == (precision == "fp16")
    networks = [{**state["student"], **state["method"]["discriminator"]} for state in (whole, cut)]
    assert all(torch.equal(value, networks[1][key]) for key, value in networks[0].items())


def test_descriptions_of_scans_wait_in_host_memory(device: torch.device) -> None:
    image, label = scan()
    propagation = AtlasPropagation([Template(image, label)], 3, device)
    description = propagation.describe(image, propagation.find(image))
    kept = [description.registration, *propagation._channels]
    assert [channels.values.device.type for channels in kept] == ["cpu", "cpu"]
    on_cpu = AtlasPropagation([Template(image, label)], 3).register(description)
    on_gpu = propagation.register(description)
    assert (on_gpu.probabilities.argmax(0) != on_cpu.probabilities.argmax(0)).mean() < 0.01
