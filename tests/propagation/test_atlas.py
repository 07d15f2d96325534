from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from balls import dice, scan
from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.propagation import atlas, description, region
from semisam_o1.propagation.atlas import AtlasPropagation, RegisteredVolume, Template


def make_atlas(*templates: tuple[np.ndarray, np.ndarray], classes: int = 3) -> AtlasPropagation:
    return AtlasPropagation([Template(image, label) for image, label in templates], classes)


def register(propagation: AtlasPropagation, image: np.ndarray) -> RegisteredVolume:
    return propagation.register(propagation.describe(image, propagation.find(image)))


def predict(propagation: AtlasPropagation, image: np.ndarray) -> np.ndarray:
    return propagation.label(image).label


def test_a_template_recovers_its_own_label():
    image, label = scan()
    predicted = predict(make_atlas((image, label)), image)
    assert min(dice(predicted, label, 1), dice(predicted, label, 2)) > 0.97


@pytest.mark.parametrize("shape", [(26, 30, 22), (31, 28, 24)])
def test_a_moved_structure_in_another_volume_is_found(shape):
    image, label = scan(shape, shift=(3, -2, 1), seed=1)
    propagation = make_atlas(scan())
    predicted = predict(propagation, image)
    assert predicted.shape == shape
    assert min(dice(predicted, label, 1), dice(predicted, label, 2)) > 0.85
    assert 0 < register(propagation, image).relative_improvement < 1


def test_coordinates_lead_to_the_template():
    """A volume that is the moved template lies, near its structures, where it was moved from."""
    image, _ = scan()
    propagation = make_atlas(scan())
    moved, label = np.roll(image, 2, axis=0), np.roll(scan()[1], 2, axis=0)
    voxels = propagation.template_coords(register(propagation, moved))
    found = np.abs(voxels - (np.indices(image.shape) - np.array([2, 0, 0]).reshape(3, 1, 1, 1)))[:, label > 0]
    assert found.mean() < 0.4


def test_a_registration_that_does_not_decrease_the_mismatch_is_not_used(monkeypatch):
    monkeypatch.setattr(atlas, "register", lambda fixed, moving, start: torch.full_like(start, 4))
    propagation = make_atlas(scan())
    image, label = scan(shift=(1, 0, 0), seed=1)
    registered = register(propagation, image)
    assert registered.relative_improvement == 0
    assert dice(predict(propagation, image), label, 1) > 0.7


def test_without_registration_the_matches_decide(monkeypatch):
    monkeypatch.setattr(atlas, "register", lambda *arguments: pytest.fail("registered"))
    image, label = scan(shift=(2, -2, 1), seed=1)
    first, first_label = scan()
    propagation = AtlasPropagation([Template(first, first_label)], 3, registration=False)
    assert min(dice(predict(propagation, image), label, c) for c in (1, 2)) > 0.7
    assert register(propagation, image).relative_improvement == 0


def test_probabilities_are_probabilities_and_repeat():
    image, _ = scan(seed=1)
    first, second = (register(make_atlas(scan(), classes=4), image).probabilities for _ in range(2))
    assert first.shape[0] == 4
    assert all(cells <= size for cells, size in zip(first.shape[1:], image.shape, strict=True))
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first.sum(axis=0), 1, atol=1e-5)
    assert not first[3].any()  # no template shows class 3


def test_two_templates_of_different_sizes():
    image, label = scan(seed=5)
    predicted = predict(make_atlas(scan(), scan((29, 27, 25), shift=(1, 1, -1), seed=2)), image)
    assert min(dice(predicted, label, 1), dice(predicted, label, 2)) > 0.85


def test_a_second_template_brings_its_own_class():
    templates = [(image, np.where(label == i, i, 0)) for i, (image, label) in ((1, scan()), (2, scan(seed=2)))]
    image, label = scan(seed=5)
    registered = register(make_atlas(*templates), image)
    probabilities = registered.region.paste(registered.probabilities).numpy()
    for index in (1, 2):  # the other template's voxels vote against it
        assert 0.1 < probabilities[index][label == index].mean() < 0.9


def test_large_volumes_are_reduced(monkeypatch):
    monkeypatch.setattr(region, "MAX_CELLS", 1_000)
    image, label = scan((31, 29, 25), seed=1)
    propagation = make_atlas(scan())
    assert max(register(propagation, image).region.step) > 1.5
    assert dice(predict(propagation, image), label, 1) > 0.65


@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 1, 6), (12, 10, 8)])
def test_degenerate_volumes(shape):
    constant = np.zeros(shape, np.float32)
    registered = register(make_atlas(scan()), constant)
    assert registered.region.paste(registered.probabilities).shape == (3, *shape)
    assert np.isfinite(registered.probabilities).all()
    assert np.isfinite(registered.frame_coords).all()
    empty = make_atlas((constant, np.zeros(shape, np.uint8)))
    assert not predict(empty, scan()[0]).any()


def test_features_of_a_foundation_model_are_followed(monkeypatch):
    """Two balls that look the same: features that tell left from right decide which is labeled."""
    monkeypatch.setattr(description, "COMPONENT_WEIGHT", 30.0)
    shape = (24, 24, 24)
    x, y, z = np.indices(shape)
    balls = [(x - center) ** 2 + (y - 12) ** 2 + (z - 12) ** 2 < 20 for center in (7, 17)]
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 1).astype(np.float32)
    image = (balls[0] | balls[1]) + 0.2 * texture
    label = balls[0].astype(np.uint8)
    side = np.broadcast_to(np.linspace(-1, 1, 8)[:, None, None], (8, 8, 8)).astype(np.float32)

    def features(sign: float) -> VolumeFeatures:
        return VolumeFeatures(np.stack([sign * side] * 4), np.ones(4, np.float32) / 2, (32, 32, 32))

    propagation = AtlasPropagation([Template(image, label, features(1))], 2)
    found = propagation.find(image)
    matched, mirrored = (propagation.describe(image, found, features(sign)) for sign in (1, -1))
    plain = AtlasPropagation([Template(image, label)], 2).describe(image, found)
    assert len(matched.matching) > len(plain.matching)
    assert not np.allclose(matched.matching, mirrored.matching)
    found, missed = (
        registered.region.paste(registered.probabilities).argmax(0).numpy()
        for registered in map(propagation.register, (matched, mirrored))
    )
    assert dice(found, label, 1) > 0.9
    assert dice(missed, label, 1) < 0.5


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match="2 classes"):
        make_atlas(scan(), classes=2)


def test_lengths_count_and_voxels_do_not():
    """A scan of half as many slices, twice as thick, gets nearly the same label."""
    image, label = scan((30, 30, 24), shift=(2, -1, 2), seed=1)
    propagation = make_atlas(scan((28, 30, 24)))
    thick = image.reshape(30, 30, 12, 2).mean(-1)
    predicted = propagation.label(thick, (1.0, 1.0, 2.0)).label
    both = np.repeat(predicted, 2, axis=2)
    whole = predict(propagation, image)
    for c in (1, 2):
        assert dice(both, whole, c) > 0.8
        assert dice(both, label, c) > 0.75
