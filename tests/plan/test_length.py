"""Iterations and rounds fit the time that there is, and its prediction adds up."""

from __future__ import annotations

import pytest

from semisam_o1.plan.length import (
    FORWARD,
    REGISTRATION,
    START,
    WARPING,
    Clock,
    Length,
    Wanted,
    Workload,
    fit_length,
    published_length,
    round_down,
    round_up,
)

BATCH = 2 * 80 * 64 * 48
LEFT_ATRIA = Workload(BATCH, 5 * 4 * BATCH // 2, 29 * 4 * BATCH // 2, 29 * 35_000, 29 * 283_000, 29 * 283_000)


def clock(step: float = 0.5, work: Workload = LEFT_ATRIA) -> Clock:
    return Clock(work, step)


@pytest.mark.parametrize("hours", [0.5, 1, 4, 12])
@pytest.mark.parametrize("step", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("wanted", [{}, {"rounds": 2}, {"val_interval": 100}], ids=str)
def test_a_run_fills_the_hours(hours: float, step: float, wanted: dict[str, int]) -> None:
    length = fit_length(clock(step), Wanted(hours, **wanted))
    assert length.rounds == wanted.get("rounds", length.rounds)
    assert length.val_interval == wanted.get("val_interval", length.val_interval)
    if length.iterations == 15000:
        return  # the published length
    if length.iterations < 200:
        assert length.rounds == wanted.get("rounds", 1)
    if length.iterations > 20:
        assert 0.8 * 3600 * hours <= length.seconds <= 3600 * hours


def test_the_prediction_is_the_sum_of_the_stages() -> None:
    work = Workload(batch=1000, validation=5000, relabeling=20_000, registered=10_000, warped=20_000, fused=0)
    found = Clock(work, step=2.0)
    before, validation, relabeling = START + REGISTRATION * 20.0 + WARPING * 40.0, FORWARD * 10.0, FORWARD * 40.0
    assert found.total(100, 3, 50) == pytest.approx(before + 3 * (100 * 2.0 + 2 * validation + relabeling))


def test_without_hours_a_first_result_on_a_cpu_and_the_published_length_on_a_gpu() -> None:
    first = fit_length(clock(0.4), Wanted())
    assert (first.iterations, first.rounds, first.val_interval) == (500, 3, 50)
    assert first.seconds < 3600
    assert fit_length(clock(1.5), Wanted()).seconds <= 3600
    assert published_length(Wanted()) == Length(15000, 3, 200)
    assert published_length(Wanted(iterations=30, rounds=1)) == Length(30, 1, 3)


def test_too_little_time_leaves_one_short_round() -> None:
    length = fit_length(clock(), Wanted(0.01))
    assert (length.iterations, length.rounds) == (20, 1)
    assert length.seconds > 36


def test_what_is_given_stays() -> None:
    length = fit_length(clock(), Wanted(1, iterations=700))
    assert length.iterations == 700
    assert length.rounds == 3 and length.seconds < 3600
    assert fit_length(clock(), Wanted(1, iterations=4000)).rounds == 1


def test_validation_is_rarer_where_it_takes_long() -> None:
    dear = Workload(BATCH, 2000 * BATCH, 0, 0, 0, 0)
    found = clock(work=dear)
    interval = found.val_interval(50_000)
    assert interval >= 2000 * FORWARD / 0.15
    assert found.val_interval(1000) == 1000


def test_numbers_are_rounded_to_two_digits() -> None:
    assert [round_down(n) for n in (-3, 0.5, 7.9, 99, 1234.5)] == [0, 0, 7, 99, 1200]
    assert [round_up(n) for n in (1, 7.1, 99.5, 1234.5)] == [1, 8, 100, 1300]
