"""A pytest plugin for tests on a pretended CUDA device; float32 convolutions round to TF32 where PyTorch allows it."""

from __future__ import annotations

import pretend_cuda
import torch


class Settings(dict):
    """The device's settings, of which TF32 follows PyTorch's own."""

    def __getitem__(self, key: str) -> object:
        return torch.backends.cudnn.allow_tf32 if key == "tf32" else super().__getitem__(key)


pretend_cuda.STATE = Settings(pretend_cuda.STATE)
pytest_configure = pretend_cuda.pytest_configure
