"""Round 0 by prototypes: recorded labels and hand-worked cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from golden_inputs import golden
from semisam_o1.features.extract import VolumeFeatures, global_feature
from semisam_o1.propagation import class_prototypes, propagate

COHORTS = ("binary", "multi", "two_templates")


def cohort(name: str) -> dict[str, np.ndarray]:
    return {
        key.removeprefix(f"{name}/"): value
        for key, value in golden("prototypes.npz").items()
        if key.startswith(f"{name}/")
    }


def features(spatial: np.ndarray, patch_size: Sequence[int]) -> VolumeFeatures:
    return VolumeFeatures(spatial, np.ones(1), tuple(patch_size))


@pytest.mark.parametrize("name", COHORTS)
def test_round_0_labels_match_the_recorded_ones(name: str) -> None:
    recorded = cohort(name)
    patch = recorded["patch_size"].tolist()
    labeled = [f"v{i}" for i in range(int(recorded["labeled_num"]))]
    templates = [(features(recorded[f"features/{v}"], patch), recorded[f"label/{v}"]) for v in labeled]
    prototypes = class_prototypes(templates, int(recorded["num_classes"]))
    for v in (f"v{i}" for i in range(len(labeled), 5)):
        pseudo = propagate(features(recorded[f"features/{v}"], patch), prototypes, recorded[f"image_shape/{v}"])
        assert pseudo.dtype == np.uint8
        np.testing.assert_array_equal(pseudo, recorded[f"pseudo/{v}"])


@pytest.mark.parametrize("name", COHORTS)
def test_global_features_match_the_recorded_ones(name: str) -> None:
    recorded = cohort(name)
    for i, expected in enumerate(recorded["global"]):
        feature = global_feature(recorded[f"features/v{i}"])
        assert feature.dtype == np.float32
        np.testing.assert_allclose(feature, expected, atol=1e-6, rtol=0)


def spatial(*cells: tuple[float, float]) -> np.ndarray:
    """Return features (2, 1, 1, cells)."""
    return np.array(cells, np.float32).T.reshape(2, 1, 1, -1)


def row(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_prototype_is_the_mean_under_the_mask_at_unit_length() -> None:
    template = features(spatial((3, 0), (0, 4), (0, 2), (0, 0)), (1, 1, 8))
    # Cells see the voxels 0, 2, 4, 6 of the label.
    label = row(0, 9, 1, 9, 1, 9, 0, 9)
    prototypes = class_prototypes([(template, label)], 3)
    np.testing.assert_allclose(prototypes, [[1, 0], [0, 1], [0, 0]], atol=1e-7)


def test_unit_prototypes_of_several_templates_are_averaged() -> None:
    cells = (spatial((10, 0), (20, 0)), spatial((0, 1), (0, 1)))
    templates = [(features(each, (1, 1, 2)), row(1, 1)) for each in cells]
    np.testing.assert_allclose(class_prototypes(templates, 2)[1], [0.5**0.5] * 2, atol=1e-6)


def test_a_class_that_one_template_lacks_comes_from_the_other() -> None:
    templates = [
        (features(spatial((1, 0), (1, 0)), (1, 1, 2)), row(0, 0)),
        (features(spatial((1, 0), (0, 1)), (1, 1, 2)), row(0, 1)),
    ]
    np.testing.assert_allclose(class_prototypes(templates, 2), [[1, 0], [0, 1]], atol=1e-6)


def test_cells_take_the_most_similar_class_and_paste_back() -> None:
    prototypes = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    # The last cell is unlike both: the class without a prototype scores 0 and wins.
    pseudo = propagate(features(spatial((5, 1), (0.1, 0.2), (-1, -1)), (1, 1, 6)), prototypes, (1, 1, 10))
    assert pseudo.ravel().tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 0, 0]


def test_ties_and_cells_without_feature_go_to_the_lower_class() -> None:
    prototypes = np.array([[0, 1], [1, 0], [1, 0]], np.float32)
    pseudo = propagate(features(spatial((1, 0), (0, 0)), (1, 1, 2)), prototypes, (1, 1, 2))
    assert pseudo.ravel().tolist() == [1, 0]
