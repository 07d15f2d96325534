"""Volumes for a ``BatchStream`` from functions of their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Source:
    image: Callable[[str], Tensor]
    label: Callable[[str], Tensor]
    weight: Callable[[str], Tensor | None] = lambda name: None
