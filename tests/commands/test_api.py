"""A trained run segments files and arrays from Python, on their own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semisam_o1.commands import trained
from semisam_o1.commands.api import load_run
from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Geometry
from standing_in import SEEN, Threshold, write_ball, write_run


@pytest.fixture(autouse=True)
def threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "Predictor", Threshold)
    monkeypatch.setattr(Threshold, "shapes", [])


def overlap(label: np.ndarray, mask: np.ndarray) -> float:
    return 2 * np.count_nonzero((label > 0) & mask) / (np.count_nonzero(label) + np.count_nonzero(mask))


def test_a_file_is_seen_on_the_grid_of_the_network_and_labeled_on_its_own(tmp_path: Path) -> None:
    run = load_run(str(write_run(tmp_path)), device="cpu")
    mask = write_ball(tmp_path / "a.nii.gz", 2.0)
    found = run.predict(tmp_path / "a.nii.gz")
    assert Threshold.shapes == [(36, 36, 36)]
    assert found.label.shape == mask.shape == found.probabilities.shape[1:] and found.label.dtype == np.uint8
    assert overlap(found.label, mask) > 0.9
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, atol=1e-5)
    assert found.geometry.spacing == (2.0, 2.0, 2.0) and any("spacing" in warning for warning in found.warnings)


def test_an_array_without_geometry_lies_as_the_training_volumes_do(tmp_path: Path) -> None:
    run = load_run(str(write_run(tmp_path, SEEN | {"spacing": [[2.0, 2.5, 3.0]] * 3})), device="cpu")
    mask = write_ball(tmp_path / "a.nii.gz", 2.0)
    found = run.predict(100.0 * mask)
    assert Threshold.shapes == [(18, 18, 18)]
    assert np.array_equal(found.label > 0, mask) and found.geometry.spacing == (2.5, 2.5, 2.5)


def test_an_array_with_a_geometry_is_brought_to_the_grid_of_the_network(tmp_path: Path) -> None:
    run = load_run(str(write_run(tmp_path)), device="cpu")
    mask = write_ball(tmp_path / "a.nii.gz", 2.0)
    found = run.predict(100.0 * mask, Geometry((2.0, 2.0, 2.0), known=True))
    assert Threshold.shapes == [(36, 36, 36)]
    assert overlap(found.label, mask) > 0.9


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.full((8, 8, 8), np.nan)])
def test_arrays_that_are_no_image_are_refused(array: np.ndarray, tmp_path: Path) -> None:
    run = load_run(str(write_run(tmp_path)), device="cpu")
    with pytest.raises(InputError, match=r"finite array \(W, H, D\)"):
        run.predict(array)


def test_a_run_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trained model"):
        load_run(str(tmp_path / "nothing"))
