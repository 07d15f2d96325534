"""Whether a round of training was long enough, by what was logged of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MIN_RISE = 0.01  # of the validation Dice in the last third of a round, from which on it is plainly still rising
MIN_FALL = 0.1  # of the loss on pseudo-labels in the last sixth, relative to the one before
MIN_LOSSES = 60  # iterations, fewer say nothing


def not_converged(steps: Sequence[Mapping[str, Any]], round_: int) -> str | None:
    """Return what shows that a round was too short, a clause; None where nothing does.

    Args:
        steps: the objects of metrics.jsonl.
    """
    own = [step for step in steps if step.get("round") == round_ and "iteration" in step]
    dice = [(step["iteration"], step["validation/dice"]) for step in own if "validation/dice" in step]
    if dice:
        return _rising(dice)
    return _falling([step["loss/pseudo_ce"] for step in own if "loss/pseudo_ce" in step])


def _rising(dice: Sequence[tuple[int, float]]) -> str | None:
    last, final = dice[-1]
    before = [value for iteration, value in dice if iteration <= 2 * last / 3]
    rise = final - max(before, default=final)
    return f"its validation Dice rose by {rise:.3f} over the last third" if rise >= MIN_RISE else None


def _falling(losses: Sequence[float]) -> str | None:
    if len(losses) < MIN_LOSSES:
        return None
    before, final = (float(np.mean(part)) for part in np.array_split(losses, 6)[-2:])
    fall = 1 - final / before if before > 0 else 0.0
    return f"its loss on pseudo-labels fell by {100 * fall:.0f} % over the last sixth" if fall >= MIN_FALL else None
