"""Which scan explains the others best, alone and beside templates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.propagation import representativeness
from semisam_o1.propagation.representativeness import Distances, distances_between, rank, rank_beside


def between(**images: np.ndarray) -> Distances:
    return distances_between(images.__getitem__, {name: image.shape for name, image in images.items()})


def anatomy(seed: int) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((24, 20, 18)), 2).astype(np.float32)


def noisy(image: np.ndarray, share: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(image.shape)
    return (image + share * image.std() * noise).astype(np.float32)


def test_what_registration_explains_is_no_distance() -> None:
    image = anatomy(0)
    moved, brighter = ndimage.shift(image, (2, -1, 1), mode="nearest"), 3 * image + 7
    distances = between(image=image, moved=moved, brighter=brighter, other=anatomy(1)).values
    assert np.isnan(np.diag(distances)).all()
    np.testing.assert_allclose(np.nanmean(distances, axis=0), 1, rtol=1e-6)
    from_image = distances[:, 0]
    assert from_image[2] < 0.01  # nothing but contrast
    assert from_image[1] < 0.5 * from_image[3]


def test_clear_typical_scans_come_first_and_odd_ones_last() -> None:
    image = anatomy(0)
    images = {f"s{i}": noisy(image, share, i) for i, share in enumerate((0.3, 0.05, 0.3, 0.6))}
    ranking = rank(between(**images, odd=anatomy(5)))
    assert (ranking[0].name, ranking[-1].name) == ("s1", "odd")
    assert ranking[-2].name == "s3"
    assert all(c.nearest <= c.distance <= c.farthest for c in ranking)


def test_many_scans_are_registered_to_a_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(representativeness, "register", lambda fixed, moving, start: start)
    images = {f"s{i}": noisy(anatomy(0), 0.1, i)[:6, :6, :6] for i in range(21)}
    for pairs, count in ((10, 5), (21 * 11, 11), (10_000, 20)):
        monkeypatch.setattr(representativeness, "PAIRS", pairs)
        distances = between(**images)
        assert distances.candidates == list(images)
        assert len(set(distances.targets)) == count
        assert {"s0", "s20"} < set(distances.targets)
        assert distances.values.shape == (21, count)
        assert np.isnan(distances.values).sum() == count


def test_scans_of_different_sizes_are_laid_over_each_other_by_their_centers() -> None:
    image = np.pad(anatomy(0), 6, mode="reflect")
    cropped, odd = image[4:-4, 6:-6, 5:-5], anatomy(5)
    values = between(image=image, cropped=cropped, odd=odd).values
    assert values[1, 0] < 0.5 * values[2, 0]


def test_the_border_counts_little() -> None:
    image = np.pad(anatomy(0), 8, mode="reflect")
    border, center = image.copy(), image.copy()
    border[:8] = np.pad(anatomy(1), 8, mode="reflect")[:8]
    center[16:24] = np.pad(anatomy(1), 8, mode="reflect")[16:24]
    values = between(image=image, border=border, center=center).values
    assert values[1, 0] < 0.3 * values[2, 0]


def test_candidates_are_ranked_by_what_they_add_to_the_templates() -> None:
    names = [*"tabc"]
    values = [[np.nan, 1.0, 0.5, 1.2], [1.0, np.nan, 0.6, 1.0], [0.5, 0.9, np.nan, 1.5], [1.5, 1.4, 0.1, np.nan]]
    distances = Distances(names, names, np.array(values))
    assert [c.name for c in rank(distances)] == ["a", "t", "b", "c"]
    assert rank(distances)[0].distance == pytest.approx((1.0 + 0.6 + 1.0) / 3)
    # c alone explains b better than the template does; a and b explain a little of c and of a.
    beside = rank_beside(distances, ["t"])
    assert [c.name for c in beside] == ["c", "a", "b"]
    assert [c.gain for c in beside] == pytest.approx([0.2, 0.1, 0.05])
    weighted = rank_beside(distances, ["t"], {"a": 0.2, "b": 0.0, "c": 0.6})
    assert [c.name for c in weighted] == ["a", "b", "c"]
    assert [c.gain for c in weighted] == pytest.approx([0.2, 0.025, 0.0])
    assert (weighted[0].nearest, weighted[0].farthest) == (0.6, 1.0)
    # Nothing to go by: all count the same.
    assert [c.gain for c in rank_beside(distances, ["t"], dict.fromkeys("abc", 0.0))] == [c.gain for c in beside]
    assert [c.name for c in rank_beside(distances, ["t", "c"])] == ["b", "a"], "c explains b already"


def grids(monkeypatch: pytest.MonkeyPatch, *shapes: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Return the grids that noise of these shapes is compared on, in the order of the scans."""
    seen = {}
    monkeypatch.setattr(representativeness, "MAX_VOXELS", 2_000)
    monkeypatch.setattr(
        representativeness, "register",
        lambda fixed, moving, start: seen.update({len(seen): tuple(moving.values.shape[1:])}) or start,
    )  # fmt: skip
    between(**{f"s{i}": np.random.default_rng(i).random(shape, np.float32) for i, shape in enumerate(shapes)})
    return list(seen.values())[-len(shapes) + 1 :]  # the others, seen from the last


def test_cells_are_of_one_size_and_leave_thin_axes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    (w, h, d), other = grids(monkeypatch, (60, 50, 9), (40, 40, 9), (60, 50, 9))
    assert d == other[2] == 9
    assert 100 < w * h < 300
    assert (60 / w, 60 / w, 50 / h) == pytest.approx((50 / h, 40 / other[0], 40 / other[1]), rel=0.1)


def test_of_a_huge_scan_the_middle_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, huge = grids(monkeypatch, (40, 40, 40), (160, 40, 120), (40, 40, 40), (40, 40, 40))[:2]
    assert usual[0] < huge[0] <= 2 * usual[0] + 1
    assert huge[1] == usual[1]
    assert usual[2] < huge[2] <= 2 * usual[2] + 1


def test_another_feature_set_is_compared_too() -> None:
    """Images that tell nothing apart: the features decide."""
    image = anatomy(0)
    sides = np.linspace(-1, 1, 8, dtype=np.float32)
    pattern = sides[:, None, None] * sides[:, None] * sides
    features = {"a": pattern, "b": pattern, "c": pattern, "odd": 3 - 9 * pattern}
    described = {
        name: VolumeFeatures(np.stack([value, 0.1 * value**2]), np.ones(1), image.shape)
        for name, value in features.items()
    }
    shapes = dict.fromkeys(described, image.shape)
    ranking = rank(distances_between(lambda name: noisy(image, 0.01, ord(name[0])), shapes, described))
    assert ranking[-1].name == "odd"
    assert ranking[-1].distance > 1.3 * ranking[0].distance
