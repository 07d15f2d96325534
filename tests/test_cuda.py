"""A GPU computes what the CPU computes, and an iteration waits for nothing. Skipped where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import test_baseline
import train_SemiSAM_O1
from method_helpers import SHAPE, make_batch, make_method, train_step
from semisam_o1.core.errors import run_command
from semisam_o1.data.sampling.augmentation import Augmentation
from semisam_o1.data.sampling.batches import BatchSettings, BatchStream
from semisam_o1.data.sampling.fields import signed_distances
from semisam_o1.methods import METHODS
from semisam_o1.networks import build_network
from semisam_o1.training.prefetch import on_device
from tiny_cohort import train_flags, write_cohort
from volume_source import Source

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Raise where the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("name", METHODS)
def test_an_iteration_waits_for_nothing(name: str, request: pytest.FixtureRequest) -> None:
    student = build_network(METHODS[name].network, 3).cuda().train()
    method, batch = make_method(name, student, classes=3), make_batch(classes=3).to(torch.device("cuda"))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    for t in range(3):
        if t == 1:  # libraries and tables are set up in the first
            request.getfixturevalue("no_waiting")
        with torch.autocast("cuda", torch.bfloat16):
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
def test_batches_from_the_gpu_are_those_of_the_cpu(augmentation: Augmentation) -> None:
    generator = torch.Generator().manual_seed(1)
    images = {name: torch.randn(20, 34, 18, generator=generator) for name in "ab"}
    settings = BatchSettings(SHAPE, 1, 2, length=6, seed=(3,), augmentation=augmentation)
    devices = ("cpu", "cuda")
    images = {device: {name: image.to(device) for name, image in images.items()} for device in devices}
    labels = {d: {name: (image > 0.5).to(torch.uint8) for name, image in images[d].items()} for d in devices}
    streams = [
        BatchStream(["a"], ["b"], Source(images[device].__getitem__, labels[device].__getitem__), settings)
        for device in devices
    ]
    made_ahead = on_device(streams[1], range(6), torch.device("cuda"), None)
    for t, batch in enumerate(made_ahead):
        wanted = streams[0][t]
        assert batch.image.device.type == "cuda"
        torch.testing.assert_close(batch.image.cpu(), wanted.image, atol=1e-3, rtol=1e-3)
        assert (batch.label.cpu() != wanted.label).float().mean() < 1e-3


@pytest.mark.parametrize("cache", ["gpu", "ram", "none"])
def test_the_commands(cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, exp = write_cohort(tmp_path / "data"), tmp_path / "run"
    flags = train_flags(root, exp, device="cuda", cache=cache, num_rounds=2, registration="on")
    assert run_command(train_SemiSAM_O1.main, flags) == 0, capsys.readouterr().err
    flags = ["--root_path", str(root), "--exp", str(exp), "--backbone", "mt", "--device", "cuda"]
    assert run_command(test_baseline.main, flags) == 0, capsys.readouterr().err
