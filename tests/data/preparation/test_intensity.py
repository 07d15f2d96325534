"""Intensities: z-scores for MRI, windows for CT."""

from __future__ import annotations

import numpy as np
import pytest

from semisam_o1.data.preparation.intensity import apply_window, normalize, unchanged

SHAPE = (6, 7, 8)


def scan(seed: int) -> np.ndarray:
    """Return an image (6, 7, 8) of small positive numbers."""
    return np.random.default_rng(seed).gamma(2.0, 100.0, SHAPE).astype(np.float32)


def test_normalize_clips_the_tails_and_standardizes() -> None:
    image = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    result = normalize(image)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert abs(result.mean()) < 1e-6
    assert result.std() == pytest.approx(1, abs=1e-5)
    # Percentiles of 0 … 999: 4.995 and 994.005, so five values at each end are one.
    assert np.unique(result).size == 992
    assert (result == result.max()).sum() == (result == result.min()).sum() == 5
    np.testing.assert_allclose(normalize(image * 3.0 - 50), result, atol=1e-5)
    np.testing.assert_array_equal(image.ravel(), np.arange(1000))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_normalize_refuses_what_is_not_finite(value: float) -> None:
    image = scan(0).astype(np.float64)
    image[1, 2, 3] = value
    with pytest.raises(ValueError, match="not finite"):
        normalize(image)


def test_normalize_refuses_constant_images() -> None:
    almost = np.zeros((20, 20, 20))
    almost[0, 0, 0] = 1
    for image in (np.full(SHAPE, 7), almost):
        with pytest.raises(ValueError, match="constant"):
            normalize(image)


def test_zeros_around_a_brain_do_not_count() -> None:
    brain = scan(0)
    around = np.zeros((12, 14, 16), np.float32)
    around[:6, :7, :8] = brain
    result = normalize(around, nonzero=True)
    np.testing.assert_allclose(result[:6, :7, :8], normalize(brain), atol=1e-5)
    assert np.all(result[6:] == result.min())
    with pytest.raises(ValueError, match="constant"):
        normalize(np.zeros(SHAPE), nonzero=True)


def test_window_means_the_same_in_every_scan() -> None:
    image = np.array([-1000, -160, 40, 240, 3000], np.int16).reshape(5, 1, 1)
    np.testing.assert_allclose(apply_window(image, (-160, 240)).ravel(), [-1, -1, 0, 1, 1])
    with pytest.raises(ValueError, match="nothing within the window"):
        apply_window(image[3:], (-160, 240))


def test_unchanged_values_are_checked_all_the_same() -> None:
    np.testing.assert_array_equal(unchanged(scan(1)), scan(1))
    with pytest.raises(ValueError, match="constant"):
        unchanged(np.full(SHAPE, 3))
    with pytest.raises(ValueError, match="not finite"):
        unchanged(np.full(SHAPE, np.nan))
