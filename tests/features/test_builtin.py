from __future__ import annotations

import numpy as np
import pytest

from semisam_o1.data.dataset.geometry import resize_nearest
from semisam_o1.features import builtin
from semisam_o1.features.builtin import NUM_CHANNELS, BuiltinFeatures, cell_means, voxel_features


def scan(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(11, 7, 5), (1, 1, 1), (9, 1, 4)])
def test_voxel_features_of_any_shape(shape):
    features = voxel_features(scan(shape))
    assert features.shape == (NUM_CHANNELS, *shape)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_a_constant_image_has_no_features():
    assert not voxel_features(np.full((6, 5, 4), 1234.5, np.float32)).any()


def test_voxel_features_ignore_the_intensity_scale():
    image = scan((11, 7, 5))
    features = voxel_features(image)
    np.testing.assert_array_equal(features, voxel_features(image))
    np.testing.assert_allclose(features, voxel_features(np.exp(image) * 500 - 7), atol=1e-6)


def test_voxel_features_keep_the_axes_apart():
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32)[:, None, None], (12, 9, 7))
    features = voxel_features(ramp)
    turned = voxel_features(ramp.transpose(2, 1, 0)).transpose(0, 3, 2, 1)
    np.testing.assert_allclose(features[0], turned[0], atol=1e-5)
    assert not np.allclose(features, turned, atol=1e-2)  # the signed derivatives know the axis


def test_cell_means_by_hand():
    array = np.arange(5, dtype=np.float32).reshape(5, 1, 1)
    np.testing.assert_array_equal(cell_means(array, (2, 1, 1)).ravel(), [1, 3.5])  # 0 1 2 | 3 4


@pytest.mark.parametrize("size", [1, 3, 4, 5, 13, 19])
def test_cells_follow_the_nearest_neighbor_rule(size):
    """A volume that is constant in every cell comes back from its cell means unchanged."""
    grid = (-(-size // 4), 2, 1)
    blocks = scan(grid)
    volume = resize_nearest(blocks, (size, 6, 3))
    np.testing.assert_allclose(cell_means(volume, grid), blocks, rtol=1e-6)


def test_spatial_feature_covers_the_volume():
    features = BuiltinFeatures()
    image = scan((13, 8, 5))
    assert features(image).shape == (NUM_CHANNELS, 4, 2, 2)
    assert features.patch_size(image.shape) == (13, 8, 5)
    assert features.key == "builtin-cell4-v1"  # found again by later versions


def test_global_feature_tells_volumes_apart():
    features = BuiltinFeatures()
    first, second = scan((24, 20, 16)), scan((24, 20, 16), seed=1)
    noisy = first + 0.1 * scan(first.shape, seed=2)
    vectors = [features.global_feature(features(image)) for image in (first, noisy, second)]
    assert vectors[0] @ vectors[1] > 0.9
    assert vectors[0] @ vectors[2] < 0.5
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(13, 8, 5), (1, 1, 1), (40, 17, 9)])
def test_global_feature_has_one_length(shape):
    features = BuiltinFeatures()
    for image in (scan(shape), np.zeros(shape, np.float32)):
        vector = features.global_feature(features(image))
        assert vector.shape == (NUM_CHANNELS * 64,)
        assert np.linalg.norm(vector) == pytest.approx(1, rel=1e-5)


def test_large_scans_are_reduced_and_keep_their_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).random((21, 18, 13)).astype(np.float32)
    image[:10] += 2
    full = BuiltinFeatures()(image)
    monkeypatch.setattr(builtin, "MAX_VOXELS", 1000)
    reduced = BuiltinFeatures()(image)
    assert reduced.shape == full.shape
    assert np.corrcoef(reduced[0].ravel(), full[0].ravel())[0, 1] > 0.9
