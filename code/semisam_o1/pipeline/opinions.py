"""The atlas of a run: it keeps the labels of round 0, which judge those of the rounds after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from semisam_o1.propagation.cohort import CohortAtlas

KEPT_BYTES = 2**30  # of class probabilities, at most; the rest is computed again


class RememberingAtlas(CohortAtlas):
    """A ``CohortAtlas`` that asks its neighbors once per volume. Safe to use from several threads."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        self._kept: dict[tuple[str, str], np.ndarray] = {}

    def carried(self, name: str) -> np.ndarray:
        return self._once("carried", name, super().carried)

    def consensus(self, name: str) -> np.ndarray:
        return self._once("consensus", name, super().consensus)

    def opinions(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the class probabilities (C, w, h, d) by a volume's own registration and by those of its neighbors.

        Without registration there are no neighbors, and both are the same.
        """
        own = self.registered(name).probabilities
        return own, self.carried(name) if self.registration else own

    def _once(self, kind: str, name: str, compute: Callable[[str], np.ndarray]) -> np.ndarray:
        values = self._kept.get((kind, name))
        if values is None:
            values = compute(name).astype(np.float16)  # rounded the first time, too: the same every time
            if sum(array.nbytes for array in list(self._kept.values())) < KEPT_BYTES:
                self._kept[kind, name] = values
        return values.astype(np.float32)
