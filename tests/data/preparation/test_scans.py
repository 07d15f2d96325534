"""Scans cropped, their intensities normalized (z-scores for MRI, windows for CT), their label values replaced."""

from __future__ import annotations

import numpy as np
import pytest

from body import GRID, phantom
from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.data.preparation.scans import apply_window, body_box, checked, normalize, prepare, remap
from semisam_o1.data.preparation.settings import Preparation


def scan(label: np.ndarray | None = None) -> Volume:
    return Volume("a", phantom(), label, GRID.geometry)


def test_body_is_found_and_the_margin_is_in_millimeters() -> None:
    box = body_box(phantom())
    assert np.abs(np.subtract([part.start for part in box], (10, 6, 0))).max() <= 2
    assert np.abs(np.subtract([part.stop for part in box], (31, 21, 20))).max() <= 2
    assert body_box(np.ones((3, 4, 5))) == (slice(0, 3), slice(0, 4), slice(0, 5))
    settings = Preparation(orientation="keep", crop=(20, 22, 10, 12, 10, 11), margin=4, intensity="keep")
    volume = prepare(scan(), settings)
    np.testing.assert_array_equal(volume.image, phantom()[16:27, 6:17, 8:14])
    assert volume.geometry.origin == (16.0, 6.0, 16.0)
    assert volume.original == GRID


def test_crop_never_looks_at_the_label() -> None:
    label = np.zeros(GRID.size, np.uint8)
    label[0, 0, 0] = 1
    settings = Preparation(crop="body", margin=2, intensity="window", window=(-160, 240))
    with_label = prepare(scan(label), settings)
    without = prepare(scan(), settings)
    np.testing.assert_array_equal(with_label.image, without.image)
    assert with_label.image.min() == -1
    assert not with_label.label.any()


def test_label_values_are_replaced() -> None:
    label = np.array([0, 1, 2, 3, 4], np.uint8).reshape(5, 1, 1)
    assert remap(label, Preparation(labels={3: 1, 4: 2})).ravel().tolist() == [0, 1, 2, 1, 2]
    assert remap(label, Preparation(labels={3: 1, 4: 2}, other_labels=0)).ravel().tolist() == [0, 0, 0, 1, 2]
    assert remap(label, Preparation(labels={0: 9}, other_labels=5)).ravel().tolist() == [9, 5, 5, 5, 5]
    assert remap(label, Preparation(other_labels=5)).ravel().tolist() == [0, 5, 5, 5, 5]


SHAPE = (6, 7, 8)


def random_image(seed: int) -> np.ndarray:
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


def test_normalize_refuses_constant_images() -> None:
    almost = np.zeros((20, 20, 20))
    almost[0, 0, 0] = 1
    for image in (np.full(SHAPE, 7), almost):
        with pytest.raises(ValueError, match="constant"):
            normalize(image)


def test_zeros_around_a_brain_do_not_count() -> None:
    brain = random_image(0)
    around = np.zeros((12, 14, 16), np.float32)
    around[:6, :7, :8] = brain
    result = normalize(around, nonzero=True)
    np.testing.assert_allclose(result[:6, :7, :8], normalize(brain), atol=1e-5)
    assert np.all(result[6:] == result.min())
    with pytest.raises(ValueError, match="constant"):
        normalize(np.zeros(SHAPE), nonzero=True)


def test_window_means_the_same_in_every_random_image() -> None:
    image = np.array([-1000, -160, 40, 240, 3000], np.int16).reshape(5, 1, 1)
    np.testing.assert_allclose(apply_window(image, (-160, 240)).ravel(), [-1, -1, 0, 1, 1])
    with pytest.raises(ValueError, match="nothing within the window"):
        apply_window(image[3:], (-160, 240))


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "not finite"), (np.inf, "not finite"), (-1e300, "value -1e.300 .* beyond the range")]
)
def test_images_that_are_not_finite_or_constant_are_refused(value: float, reason: str) -> None:
    image = random_image(1).astype(np.float64)
    np.testing.assert_array_equal(checked(image), image.astype(np.float32))
    image[1, 2, 3] = value
    with pytest.raises(ValueError, match=reason):
        checked(image)
    with pytest.raises(ValueError, match="constant"):
        checked(np.full(SHAPE, 3))
