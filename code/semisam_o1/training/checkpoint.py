"""Weights and run states on disk: written whole or not at all, read without unpickling anything but tensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, RunError
from ..tensor_file import load_tensors


def save(content: Any, path: Path) -> None:
    """Write tensors and plain values to ``path``, under a temporary name until they are on the disk.

    Raises:
        RunError: if they cannot be written; what was there stays.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written ({error}); free some space, then go on with --resume") from None


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write a run state, keeping the previous one until this one is whole."""
    fresh = path.with_name(path.name + ".new")
    save(state, fresh)
    if path.exists():
        path.replace(previous(path))
    fresh.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """Return the newest whole run state, None where there is none."""
    for candidate in (path, previous(path)):
        if candidate.is_file():
            try:
                state = load_tensors(candidate)
            except InputError:
                continue
            if isinstance(state, dict):
                return state
    return None


def previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}_previous{path.suffix}")


def load_weights(network: torch.nn.Module, path: Path) -> None:
    """Load a state dict strictly, plain or as other tools wrap it.

    Raises:
        InputError: naming the first keys that are missing, not expected or of another shape.
    """
    weights = _unwrapped(load_tensors(path))
    if not isinstance(weights, dict):
        raise InputError(f"{path} holds no state dict")
    expected = network.state_dict()
    faults = [f"{key} is missing" for key in expected if key not in weights]
    faults += [f"{key} is not expected" for key in weights if key not in expected]
    faults += [
        f"{key} is {tuple(weights[key].shape)} and should be {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and getattr(weights[key], "shape", None) != value.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise InputError(
            f"{path} does not fit the network ({'; '.join(faults[:3])}{more}); check --model and --num_classes"
        )
    network.load_state_dict(weights)


def _unwrapped(content: Any) -> Any:
    """Return the state dict inside a training state, its keys without the prefix of DataParallel."""
    for key in ("model_state_dict", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if isinstance(content, dict) and content and all(str(key).startswith("module.") for key in content):
        content = {key.removeprefix("module."): value for key, value in content.items()}
    return content
