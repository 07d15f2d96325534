"""Schedules against recorded numbers."""

from __future__ import annotations

import pytest

from golden_inputs import golden
from semisam_o1.methods import schedules

T = 15000
SCHEDULES = {
    "consistency_weight": lambda t: schedules.consistency_weight(0.1, t, 200.0),
    "uamt_threshold": lambda t: schedules.entropy_threshold(t, T),
    "pseudo_weight": lambda t: schedules.pseudo_weight(t, T),
    "learning_rate_after_step": lambda t: schedules.learning_rate(0.01, t, T),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_matches_the_recorded_one(name: str) -> None:
    recorded = golden("losses.json")[name]
    assert recorded
    for t, value in recorded.items():
        assert SCHEDULES[name](int(t)) == pytest.approx(value, rel=1e-6, abs=1e-12), t


def test_ema_decay_is_the_true_average_at_first() -> None:
    decays = [schedules.ema_decay(0.99, t) for t in (0, 1, 3, 99, 5000)]
    assert decays == pytest.approx([0, 0.5, 0.75, 0.99, 0.99])


def test_no_rampup_is_the_full_weight_from_the_start() -> None:
    assert schedules.consistency_weight(0.3, 0, 0) == 0.3
