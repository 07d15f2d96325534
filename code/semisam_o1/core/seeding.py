"""Random seeds derived from their purpose, so that a resumed run needs no random state."""

from __future__ import annotations

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """Return a 63-bit seed from non-negative integers such as (seed, round, iteration)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_generator(*parts: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(parts))


def torch_generator(*parts: int, device: str | torch.device = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(derive_seed(*parts))
