"""Distance maps: recorded ones, the plain formula with SciPy's transform, and a line by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt

from golden_inputs import golden
from semisam_o1.data.sampling import fields
from semisam_o1.data.sampling.fields import signed_distances, squared_distances


def blobs(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Return boxes with holes."""
    random = np.random.RandomState(seed)
    mask = np.zeros(shape, bool)
    for i in range(6):
        box = tuple(slice(a, a + b) for a, b in ((random.randint(n), random.randint(1, n)) for n in shape))
        mask[box] = i % 3 < 2
    return mask


def plain(mask: np.ndarray) -> np.ndarray:
    """Return the signed distance map as its formula says it, with SciPy."""
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    expected = outside / outside.max() - inside / inside.max()
    # A voxel of the object with a neighbor in the background; the border of the volume is none.
    expected[mask & ~binary_erosion(mask, border_value=1)] = 0
    return expected


@pytest.mark.parametrize("chunk", [1, 500, 2**20])
def test_distances_are_those_of_scipy(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fields.CHUNK, "cpu", chunk)
    masks = np.stack([blobs((31, 20, 13), seed) for seed in range(5)])
    found = squared_distances(torch.from_numpy(masks))
    expected = np.stack([distance_transform_edt(~mask) for mask in masks])
    assert np.array_equal(found.numpy(), np.round(expected**2))


def test_distance_to_nothing_is_infinite() -> None:
    masks = torch.zeros(2, 3, 4, 5, dtype=torch.bool)
    masks[1, 0, 0, 0] = True
    found = squared_distances(masks)
    assert found[0].isinf().all()
    assert found[1].max() == 4 + 9 + 16


def test_maps_match_the_recorded_ones() -> None:
    recorded = golden("sdf.npz")
    maps = signed_distances(torch.from_numpy(recorded["label"]), 2)
    assert maps.shape == (3, 1, 20, 24, 16)
    np.testing.assert_allclose(maps[:, 0], recorded["sdf"], atol=1e-6, rtol=0)


def test_map_is_the_plain_formula() -> None:
    masks = np.stack([blobs((32, 27, 40), seed) for seed in (3, 4)])
    maps = signed_distances(torch.from_numpy(masks.astype(np.uint8)), 2)
    for mask, distance in zip(masks, maps[:, 0].numpy(), strict=True):
        np.testing.assert_allclose(distance, plain(mask), atol=1e-6, rtol=0)
        assert distance.min() == -1
        assert distance.max() == 1


def test_a_line_by_hand() -> None:
    label = torch.tensor([0, 0, 1, 1, 1, 1, 1, 0]).view(1, 1, 8, 1)
    expected = [1, 0.5, 0, -2 / 3, -1, -2 / 3, 0, 0.5]
    assert signed_distances(label, 2).flatten().tolist() == pytest.approx(expected)


def test_absent_and_full_classes_are_finite() -> None:
    label = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    label[1] = 1
    maps = signed_distances(label, 3)
    assert (maps[1, 0] == -1).all()
    assert (maps[0] == 0).all()
    assert (maps[1, 1] == 0).all()


def test_every_foreground_class_has_a_map_of_its_own() -> None:
    labels = torch.from_numpy(np.random.RandomState(1).randint(0, 4, (2, 5, 6, 7)).astype(np.uint8))
    maps = signed_distances(labels, 4)
    assert maps.shape == (2, 3, 5, 6, 7)
    assert maps.dtype == torch.float32
    for item in range(2):
        for c in (1, 2, 3):
            alone = signed_distances((labels[item : item + 1] == c).byte(), 2)
            torch.testing.assert_close(maps[item, c - 1], alone[0, 0], atol=0, rtol=0)
