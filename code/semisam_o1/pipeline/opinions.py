"""The atlas of a run: it keeps the labels of round 0, which judge those of the rounds after it."""

from __future__ import annotations

from typing import Any

import numpy as np

from semisam_o1.propagation.cohort import CohortAtlas
from semisam_o1.refinement.quality import expected_dice, judge

KEPT_BYTES = 2**30  # of class probabilities, at most; the rest is computed again


class RememberingAtlas(CohortAtlas):
    """A ``CohortAtlas`` that forms its opinions once per volume. Safe to use from several threads."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def opinions(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        known = self._kept.get(name)
        if known is None:
            # Rounded the first time, too: the same every time.
            known = tuple(values.astype(np.float16) for values in super().opinions(name))
            if sum(values.nbytes for pair in list(self._kept.values()) for values in pair) < KEPT_BYTES:
                self._kept[name] = known
        return tuple(values.astype(np.float32) for values in known)

    def expected_dice(self, name: str) -> tuple[float, ...]:
        """Return the Dice per foreground class that is expected of the label of round 0.

        The neighbors judge it; without registration there are none, and its own probabilities do.
        """
        consensus, carried = self.opinions(name)
        return judge(consensus, carried) if self.registration else expected_dice(consensus, consensus)
