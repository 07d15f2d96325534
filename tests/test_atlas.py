from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from semisam_o1.propagation import atlas
from semisam_o1.propagation.atlas import AtlasPropagation


def scan(
    shape: tuple[int, int, int] = (26, 30, 22), shift: tuple[int, int, int] = (0, 0, 0), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A bright and a dark ball in smooth noise: image, label with classes 1 and 2."""
    x, y, z = (axis - size / 2 - move for axis, size, move in zip(np.indices(shape), shape, shift, strict=True))
    label = np.zeros(shape, np.uint8)
    label[x**2 + (y + 5) ** 2 + z**2 < 25] = 1
    label[x**2 + (y - 5) ** 2 + z**2 < 16] = 2
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1)
    return (np.array([0, 1, -1])[label] + 0.5 * texture).astype(np.float32), label


def dice(prediction: np.ndarray, truth: np.ndarray, index: int) -> float:
    overlap = ((prediction == index) & (truth == index)).sum()
    return 2 * overlap / ((prediction == index).sum() + (truth == index).sum())


def test_a_template_recovers_its_own_label():
    image, label = scan()
    propagation = AtlasPropagation([(image, label)], num_classes=3, neighbours=1)
    np.testing.assert_array_equal(propagation.label(image), label)


@pytest.mark.parametrize("shape", [(26, 30, 22), (31, 28, 24)])
def test_a_moved_structure_in_another_volume_is_found(shape):
    image, label = scan(shape, shift=(2, -2, 1), seed=1)
    predicted = AtlasPropagation([scan()], num_classes=3).label(image)
    assert predicted.shape == shape
    assert predicted.dtype == np.uint8
    assert min(dice(predicted, label, 1), dice(predicted, label, 2)) > 0.75


def test_alignment_follows_a_displacement():
    image, label = scan(shift=(5, 0, 0), seed=1)
    aligned = AtlasPropagation([scan()], num_classes=3)
    still = AtlasPropagation([scan()], num_classes=3, alignment=())
    assert dice(aligned.label(image), label, 1) > dice(still.label(image), label, 1) + 0.1


def test_given_places_are_used():
    """With the true displacement as registration, a displaced structure is found without alignment."""
    image, label = scan(shift=(5, 0, 0), seed=1)
    places = np.indices(image.shape) - np.array([5, 0, 0]).reshape(3, 1, 1, 1)
    propagation = AtlasPropagation([scan()], num_classes=3, alignment=())
    registered = propagation.probabilities(image, places).argmax(axis=0)
    assert dice(registered, label, 1) > dice(propagation.label(image), label, 1) + 0.1
    centred = propagation.probabilities(image, np.indices(image.shape))
    np.testing.assert_allclose(centred, propagation.probabilities(image), atol=1e-6)


def test_probabilities_are_probabilities_and_repeat():
    image, _ = scan(seed=1)
    first, second = (AtlasPropagation([scan()], num_classes=4).probabilities(image) for _ in range(2))
    assert first.shape == (4, *image.shape)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first.sum(axis=0), 1, atol=1e-5)
    assert not first[3].any()  # no template shows class 3


def test_two_templates_of_different_sizes():
    image, label = scan(seed=5)
    templates = [scan(), scan((29, 27, 25), shift=(1, 1, -1), seed=2)]
    predicted = AtlasPropagation(templates, num_classes=3).label(image)
    assert min(dice(predicted, label, 1), dice(predicted, label, 2)) > 0.85


def test_a_second_template_brings_its_own_class():
    templates = [(image, np.where(label == i, i, 0)) for i, (image, label) in ((1, scan()), (2, scan(seed=2)))]
    image, label = scan(seed=5)
    probabilities = AtlasPropagation(templates, num_classes=3).probabilities(image)
    for index in (1, 2):  # the other template's voxels vote against it
        assert 0.1 < probabilities[index][label == index].mean() < 0.9


def test_large_volumes_are_reduced(monkeypatch):
    monkeypatch.setattr(atlas, "MAX_VOXELS", 8_000)
    monkeypatch.setattr(atlas, "MIN_REDUCED_AXIS", 4)
    image, label = scan((31, 29, 25), seed=1)
    predicted = AtlasPropagation([scan()], num_classes=3).label(image)
    assert predicted.shape == image.shape
    assert dice(predicted, label, 1) > 0.7


@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 1, 6), (12, 10, 8)])
def test_degenerate_volumes(shape):
    constant = np.zeros(shape, np.float32)
    probabilities = AtlasPropagation([scan()], num_classes=3).probabilities(constant)
    assert probabilities.shape == (3, *shape)
    assert np.isfinite(probabilities).all()
    empty = AtlasPropagation([(constant, np.zeros(shape, np.uint8))], num_classes=3)
    assert not empty.label(scan()[0]).any()


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match="2 classes"):
        AtlasPropagation([scan()], num_classes=2)
