"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from golden_inputs import filled, golden
from narrow_networks import narrow


@pytest.fixture(scope="session")
def filled_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A SAM-Med3D-turbo checkpoint (384 MB) with every key of the released one and the recorded weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "sam_med3d_turbo.pth"
    shapes = golden("sam_med3d_state_dict.json")
    torch.save({"model_state_dict": {key: filled(key, shape) for key, shape in shapes.items()}}, path)
    yield path
    path.unlink()


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what runs remember for later ones apart from what the user's own remember."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Let PyTorch use one thread: threads on a busy machine mostly wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def four_threads() -> Iterator[None]:
    """Run a test with four PyTorch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def narrow_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build every U-Net and discriminator with few channels."""
    narrow(monkeypatch)
