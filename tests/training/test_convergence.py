"""A round that was too short is recognized by its validation, else by its loss."""

from __future__ import annotations

import pytest

from semisam_o1.training.convergence import not_converged


def validated(*dice: float) -> list[dict[str, float]]:
    values = [{"round": 2, "iteration": 100 * i, "validation/dice": d} for i, d in enumerate(dice, start=1)]
    return [{"round": 1, "iteration": 100, "validation/dice": 0.1}, {"round": 2, "step": 5}, *values]


def trained(last: float) -> list[dict[str, float]]:
    return [{"round": 1, "iteration": i, "loss/pseudo_ce": 1.0 if i <= 50 else last} for i in range(1, 61)]


@pytest.mark.parametrize(
    ("dice", "rise"),
    [((0.7, 0.75, 0.78), "0.030"), ((0.7, 0.8, 0.805), None), ((0.5, 0.8, 0.79), None), ((0.4,), None)],
)
def test_validation_that_still_rises(dice: tuple[float, ...], rise: str | None) -> None:
    found = not_converged(validated(*dice), 2)
    assert found is None if rise is None else f"rose by {rise}" in found


def test_a_loss_that_still_falls_where_nothing_validates() -> None:
    assert "fell by 20 %" in not_converged(trained(0.8), 1)
    assert not_converged(trained(0.95), 1) is None
    assert not_converged(trained(0.8)[:30], 1) is None
    assert not_converged(validated(0.7, 0.8, 0.8) + trained(0.5), 2) is None
