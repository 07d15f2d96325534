"""Advice after a run."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from semisam_o1.report.page import advise, size_outliers
from semisam_o1.runs.records import RoundRecord


def test_size_outliers() -> None:
    assert size_outliers([100, 104, 98, 101, 900, 99]) == [4]
    assert size_outliers([1, 900]) == []


def test_turned_scans_are_named() -> None:
    record = RoundRecord(0, 0.1, None, (), 0.0, None, None, 1.0, turned=("p3 (+y −x +z)",))
    results = SimpleNamespace(records=[RoundRecord.from_json(record.to_json())], validated=True, num_classes=2)
    results.arguments = {"max_iterations": 5, "exp": "mine"}
    assert [line for line in advise(results, {}) if "p3 (+y −x +z)" in line and "orientation" in line]


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        ((0.012, 0.003), "+0.012; other scans are corrected"),
        ((-0.002, 0.003), "-0.002; other scans are corrected"),
        ((-0.002, 0.001), "are not corrected"),
    ],
)
def test_correction_of_other_scans_is_told(gain: tuple[float, float], told: str) -> None:
    zero = RoundRecord(0, 0.1, None, (), 0.0, None, None, 1.0)
    measured = {"correction_gain": gain[0], "correction_error": gain[1]}
    trained = dataclasses.replace(zero, round=1, validation_dice=0.8, best_iteration=4, **measured)
    results = SimpleNamespace(records=[zero, RoundRecord.from_json(trained.to_json())], validated=True, num_classes=2)
    results.arguments = {"max_iterations": 5, "exp": "mine"}
    assert [line for line in advise(results, {}) if told in line]
