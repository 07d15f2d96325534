"""Weights, thresholds and rates as pure functions of the iteration t, counted from 0."""

from __future__ import annotations

import math


def learning_rate(base: float, t: int, max_iterations: int) -> float:
    """Return the learning rate that holds after the step of iteration t."""
    return base * (1 - t / max_iterations) ** 0.9


def pseudo_weight(t: int, max_iterations: int) -> float:
    """Return the weight of the pseudo-label loss, which rises over the first 30 % of the round."""
    return min(1.0, t / (0.3 * max_iterations))


def consistency_weight(consistency: float, t: int, rampup: float) -> float:
    """Return the Gaussian ramp-up of Laine and Aila, ICLR 2017, one step every 150 iterations."""
    if rampup == 0:
        return consistency
    phase = 1 - min(t // 150, rampup) / rampup
    return consistency * math.exp(-5 * phase**2)


def ema_decay(limit: float, t: int) -> float:
    """Return the teacher's decay: the true average at first, then ``limit``."""
    return min(1 - 1 / (t + 1), limit)


def entropy_threshold(t: int, max_iterations: int) -> float:
    """Return the entropy in nats below which UAMT trusts the teacher, from about 0.75 ln 2 to ln 2."""
    return (0.75 + 0.25 * math.exp(-5 * (1 - t / max_iterations) ** 2)) * math.log(2)
