"""The atlas of a run: it keeps the labels of round 0, which judge those of the rounds after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from semisam_o1.propagation.cohort import CohortAtlas
from semisam_o1.refinement.quality import expected_dice, judge

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

    def expected_dice(self, name: str) -> tuple[float, ...]:
        """Return the Dice per foreground class that is expected of the label of round 0.

        The neighbors judge it; without registration there are none, and its own probabilities do.
        """
        consensus = self.consensus(name)
        return judge(consensus, self.carried(name)) if self.registration else expected_dice(consensus, consensus)

    def _once(self, kind: str, name: str, compute: Callable[[str], np.ndarray]) -> np.ndarray:
        values = self._kept.get((kind, name))
        if values is None:
            values = compute(name).astype(np.float16)  # rounded the first time, too: the same every time
            if sum(array.nbytes for array in list(self._kept.values())) < KEPT_BYTES:
                self._kept[kind, name] = values
        return values.astype(np.float32)
