"""Advice after a run."""

from __future__ import annotations

from types import SimpleNamespace

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
