"""The recorded outputs in tests/golden and the two rules that regenerate their inputs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> dict:
    """Return the content of one recorded file by key."""
    path = GOLDEN / name
    if path.suffix == ".json":
        return json.loads(path.read_text())
    with np.load(path) as file:
        return {key: file[key] for key in file}


def volume(shape: Sequence[int], seed: int) -> Tensor:
    """Return standard normal noise, float32."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(tuple(shape)).astype(np.float32))


def filled(name: str, shape: Sequence[int]) -> Tensor:
    """Return the recorded weights of the state-dict entry ``name``."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    noise = np.asarray(noise, np.float32)
    if name.endswith(("rel_pos_d", "rel_pos_h", "rel_pos_w", "pos_embed")):
        noise = np.float32(0.1) * noise
    elif noise.ndim <= 1:
        noise = np.float32(1.0 if name.endswith("weight") else 0.0) + np.float32(0.1) * noise
    else:
        noise = noise / np.float32(np.sqrt(np.prod(shape[1:])))
    return torch.from_numpy(np.asarray(noise, np.float32))


def fill(module: nn.Module) -> nn.Module:
    """Give a module its recorded weights."""
    module.load_state_dict({key: filled(key, value.shape) for key, value in module.state_dict().items()})
    return module


def shapes(module: nn.Module) -> dict[str, list[int]]:
    """Return the shape of every state-dict entry, as the recorded JSON files hold them."""
    return {key: list(value.shape) for key, value in module.state_dict().items()}
