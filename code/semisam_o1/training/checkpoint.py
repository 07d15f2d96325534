"""Weights and training states on disk: written atomically, read without unpickling anything but tensors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from semisam_o1.core.atomic_io import write_bytes
from semisam_o1.core.errors import InputError, listed
from semisam_o1.core.safe_load import load_tensors

STATE_KEYS = frozenset({"round", "seed", "iteration", "student", "method", "optimizer", "best"})


def save(content: Any, path: Path, keep: Path | None = None) -> None:
    """Write tensors and plain values atomically; ``keep`` and WriteError as of ``replacing``."""
    buffer = io.BytesIO()  # PyTorch's own writer does not survive a full disk
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer(), keep=keep)


def previous(path: Path) -> Path:
    """Return where the state before the one at ``path`` is kept."""
    return path.with_name(f"{path.stem}_previous{path.suffix}")


def load_state(path: Path, round_: int) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest intact state of a round (None where there is none), and what is wrong with newer files.

    Every record's length and checksum is verified; instead of a damaged file the one before it is taken.
    """
    faults: list[str] = []
    for candidate in (path, previous(path)):
        if candidate.is_file():
            try:
                state = load_tensors(candidate)
            except InputError as error:
                faults.append(str(error))
                continue
            if not isinstance(state, dict) or not state.keys() >= STATE_KEYS:
                faults.append(f"{candidate} holds no training state")
            elif state["round"] == round_:
                return state, faults
    return None, faults


def load_weights(network: torch.nn.Module, path: Path, record: str | None = None) -> None:
    """Load a state dict strictly, a plain one or one inside a checkpoint of another tool.

    Raises InputError that names the first keys that are missing, not expected, of another shape, or not finite.

    Args:
        record: as of ``load_tensors``.
    """
    weights = _unwrapped(load_tensors(path, record))
    if not isinstance(weights, dict):
        raise InputError(f"{path} holds no state dict")
    expected = network.state_dict()
    faults = [f"{key} is missing" for key in expected if key not in weights]
    for key, given in weights.items():
        if key not in expected:
            faults.append(f"{key} is not expected")
        elif not isinstance(given, torch.Tensor) or given.layout != torch.strided:
            faults.append(f"{key} is no tensor")
        elif given.shape != expected[key].shape:
            faults.append(f"{key} is {tuple(given.shape)} and should be {tuple(expected[key].shape)}")
        elif not torch.isfinite(given).all():
            faults.append(f"{key} holds values that are NaN or infinite")
    if faults:
        raise InputError(f"{path} does not fit the network ({listed(faults, 3)}); check --model and --num_classes")
    network.load_state_dict(weights)


def _unwrapped(content: Any) -> Any:
    """Return the state dict inside a training state, its keys without the prefix of DataParallel."""
    for key in ("model_state_dict", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if isinstance(content, dict) and content and all(str(key).startswith("module.") for key in content):
        content = {key.removeprefix("module."): value for key, value in content.items()}
    return content
