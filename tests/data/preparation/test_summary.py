"""Advice that follows from the sizes of the scans."""

from __future__ import annotations

from semisam_o1.data.preparation.summary import fitting_patch


def test_a_patch_is_suggested_that_fits_the_scans() -> None:
    assert fitting_patch([(190, 140, 88), (200, 150, 90)]) == (128, 128, 96)
    assert fitting_patch([(35, 50, 36)]) == (32, 48, 32)
    assert fitting_patch([(5, 20, 7)]) == (16, 32, 16)
