"""Files of tensors from anywhere, read without unpickling anything else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from .errors import InputError


def load_tensors(path: Path) -> Any:
    """Read tensors and plain containers from a PyTorch file, onto the CPU.

    Raises:
        InputError: if the file is damaged or holds anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        reason = "it is damaged or holds more than tensors"
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise InputError(f"{path} cannot be read as a checkpoint ({reason}); get a whole copy of it")
