"""The choice of device and precision, and what the user is told where a GPU cannot be used."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from packaging.specifiers import SpecifierSet

from semisam_o1 import PROJECT_ROOT
from semisam_o1.core import device as devices
from semisam_o1.core.device import resolve_device, resolve_precision
from semisam_o1.core.errors import InputError

OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver …"
OLD_CARD = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be …"
# Message of the first kernel; what the error names; whether 'auto' warns.
FAULTS = {
    "build": (AssertionError("Torch not compiled with CUDA enabled"), ("finds no CUDA device", "whl/cu126"), False),
    "no GPU": (RuntimeError("No CUDA GPUs are available"), ("finds no CUDA device",), False),
    "no driver": (RuntimeError("Found no NVIDIA driver on your system."), ("finds no CUDA device",), False),
    "old driver": (RuntimeError(OLD_DRIVER), ("driver is too old", "12040", "whl/cu126"), True),
    "old card": (RuntimeError(OLD_CARD), ("Tesla P100 (compute capability 6.0)", "architecture", "whl/cu126"), True),
    "other": (RuntimeError("CUDA error: initialization error"), ("initialization error", "nvidia-smi"), True),
}


class Kernel:
    """A tensor on a GPU whose first kernel fails, or does not."""

    def __init__(self, error: Exception | None):
        self.error = error

    def add_(self, other: int) -> Kernel:
        if self.error is not None:
            raise self.error
        return self

    def item(self) -> float:
        return 2.0


@pytest.fixture
def tf32() -> Iterator[None]:
    """Allow TF32, as PyTorch does for convolutions; afterwards it is what it was."""
    flags = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = True
    yield
    for flag, value in zip(flags, before, strict=True):
        flag.allow_tf32 = value


@pytest.fixture
def gpus(tf32: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Make up a number of GPUs whose first kernel raises an error, if there is one; return who was asked for one."""
    for key in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(key, raising=False)

    def make(count: int, error: Exception | None = None) -> list[str]:
        asked: list[str] = []

        def ones(size: int, device: str) -> Kernel:
            warnings.warn("a long one about the same", stacklevel=1)
            asked.append(device)
            return Kernel(error)

        monkeypatch.setattr(devices.torch, "ones", ones)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (6, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=None: "Tesla P100")
        return asked

    return make


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FAULTS)
def test_a_gpu_that_does_not_work_is_explained(name: str, gpus, capsys: pytest.CaptureFixture[str]) -> None:
    error, parts, warned = FAULTS[name]
    gpus(1, error)
    with pytest.raises(InputError, match=r"--device cuda: .*use --device cpu") as raised:
        resolve_device("cuda")
    assert all(part in str(raised.value) for part in parts)
    assert resolve_device("auto") == torch.device("cpu")
    told = capsys.readouterr().err
    assert all((part in told) == warned for part in ("warning: the CPU is used", *parts))


def test_a_gpu_that_works_is_used_with_its_index_and_without_tf32(gpus, capsys: pytest.CaptureFixture[str]) -> None:
    asked = gpus(1)
    assert resolve_device("cpu") == torch.device("cpu")
    assert (asked, torch.backends.cudnn.allow_tf32) == ([], True)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_processes_have_a_gpu_each(device: str, gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = gpus(2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert resolve_device(device) == torch.device("cuda", 1)
    assert asked == ["cuda:1"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(InputError, match="4 processes need a GPU each and PyTorch finds 2; use a smaller --nproc"):
        resolve_device(device)
    assert asked == ["cuda:1"]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(("version", "avoided"), [(90701, False), (91002, True), (91499, True), (91500, False)])
def test_versions_of_cudnn_without_fast_16_bit_convolutions_are_named(
    precision: str, version: int, avoided: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    assert resolve_precision(precision, "cuda") == precision
    assert ("without cuDNN 9.1" in capsys.readouterr().err) == (avoided and precision != "fp32")


def test_fp16_is_for_gpus_and_never_chosen_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--precision fp16 needs a CUDA GPU"):
        resolve_precision("fp16", "cpu")
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(get_device_capability=lambda: (7, 0)))
    assert resolve_precision("auto", "cuda") == "fp32"


def test_releases_of_pytorch_with_slow_16_bit_convolutions_are_excluded() -> None:
    lines = (PROJECT_ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (torch_versions,) = (line.removeprefix("torch") for line in lines if line.startswith("torch>"))
    releases = ["2.7.1", "2.8.0", "2.9.0", "2.9.1", "2.10.0", "2.11.0", "2.13.0"]
    assert list(SpecifierSet(torch_versions).filter(releases)) == ["2.8.0", "2.11.0", "2.13.0"]
