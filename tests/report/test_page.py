"""Advice after a run."""

from __future__ import annotations

from semisam_o1.report.page import size_outliers


def test_size_outliers() -> None:
    assert size_outliers([100, 104, 98, 101, 900, 99]) == [4]
    assert size_outliers([1, 900]) == []
