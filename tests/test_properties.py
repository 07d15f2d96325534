"""What must hold for any input, tried on made-up ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.geometry import centered_padding, from_patch, resize_nearest, to_patch
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.sampling.batches import BatchSettings, BatchStream
from semisam_o1.data.sampling.patches import ORIENTATIONS, patch_start, source_size, write_patch
from semisam_o1.evaluation.metrics import dice_per_class, segmentation_metrics
from semisam_o1.evaluation.sliding_window import sliding_window, window_starts
from semisam_o1.refinement.neighbors import refine, uncertain_volumes, vote
from volume_source import Source

settings.register_profile("steady", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("steady")

sides = st.integers(1, 9)
shapes = st.tuples(sides, sides, sides)
seeds = st.integers(0, 2**32 - 1)
masks = hnp.arrays(bool, shapes)


def labels_like(shape: tuple[int, ...], seed: int, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, shape).astype(np.uint8)


# Geometry


@given(shapes, shapes, seeds)
def test_a_centered_patch_and_back_keeps_what_fits(shape: tuple, patch: tuple, seed: int) -> None:
    volume = labels_like(shape, seed) + 1
    centered = to_patch(volume, patch)
    back = from_patch(centered, shape)
    assert (centered.shape, back.shape) == (patch, shape)
    kept = back > 0
    assert np.array_equal(back[kept], volume[kept])
    assert kept.sum() == np.prod(np.minimum(shape, patch)) == (centered > 0).sum()
    assert np.array_equal(to_patch(back, patch), centered)


@given(shapes, shapes, seeds)
def test_nearest_neighbors_invent_no_value(shape: tuple, other: tuple, seed: int) -> None:
    volume = labels_like(shape, seed)
    resized = resize_nearest(volume, other)
    assert resized.shape == other
    assert set(np.unique(resized)) <= set(np.unique(volume))
    assert np.array_equal(resize_nearest(volume, shape), volume)


@given(shapes, shapes)
def test_padding_reaches_the_minimum_and_no_more(shape: tuple, least: tuple) -> None:
    for size, minimum, (front, back) in zip(shape, least, centered_padding(shape, least), strict=True):
        assert size + front + back == max(size, minimum)
        assert 0 <= back - front <= 1


# Sliding window


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_windows_cover_an_axis(size: int, patch: int, stride: int) -> None:
    size, stride = max(size, patch), min(stride, patch)
    starts = window_starts(size, patch, stride)
    covered = {i for start in starts for i in range(start, start + patch)}
    assert covered == set(range(size))
    assert sorted(set(starts)) == starts


@given(shapes, shapes, seeds)
def test_a_window_by_window_function_is_the_function(shape: tuple, patch: tuple, seed: int) -> None:
    generator = np.random.default_rng(seed)
    stride = tuple(int(generator.integers(1, side + 1)) for side in patch)
    volume = torch.from_numpy(generator.standard_normal(shape).astype(np.float32))

    def predict(windows: torch.Tensor) -> torch.Tensor:
        assert windows.shape[1:] == (1, *patch)
        positive = torch.sigmoid(windows)
        return torch.cat([1 - positive, positive], dim=1)

    probabilities = sliding_window(volume, predict, patch, stride)
    torch.testing.assert_close(probabilities[1], torch.sigmoid(volume), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(shape), atol=1e-6, rtol=1e-5)


# Sampling


@given(shapes, shapes, st.sampled_from(ORIENTATIONS["all"]), seeds)
def test_a_patch_shows_the_volume_or_zeros(shape: tuple, patch: tuple, orientation, seed: int) -> None:
    volume = torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float32).reshape(shape)
    size = source_size(patch, orientation)
    start = patch_start(shape, size, np.random.default_rng(seed).random(3))
    box = torch.full(patch, -1.0)
    write_patch(box, volume, start, orientation)
    assert (box >= 0).all()
    shown = box[box > 0]
    assert len(shown) == len(shown.unique())
    expected = np.prod([max(0, min(a + p, n) - max(a, 0)) for a, p, n in zip(start, size, shape, strict=True)])
    assert len(shown) == expected
    assert all(a >= 0 and a + p <= n for a, p, n in zip(start, size, shape, strict=True) if n > p)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), seeds)
def test_every_volume_is_drawn_equally_often_on_any_number_of_ranks(
    labeled: int, unlabeled: int, labeled_bs: int, unlabeled_bs: int, seed: int
) -> None:
    names = [f"l{i}" for i in range(labeled)], [f"u{i}" for i in range(unlabeled)]
    length = labeled * unlabeled
    image = torch.ones(3, 3, 3)
    label = torch.ones(3, 3, 3, dtype=torch.uint8)

    settings = BatchSettings((2, 2, 2), 2 * labeled_bs, 2 * (labeled_bs + unlabeled_bs), length, (seed,))
    source = Source(lambda _: image, lambda _: label)
    whole = BatchStream(*names, source, settings)
    ranks = [BatchStream(*names, source, settings, (rank, 2)) for rank in range(2)]
    drawn: list[str] = []
    for t in range(length):
        batch, parts = whole[t], [rank[t] for rank in ranks]
        assert sorted(batch.names) == sorted(name for part in parts for name in part.names)
        assert batch.names == whole[t].names
        drawn += batch.names
    for group in names:
        counts = [drawn.count(name) for name in group]
        assert len(set(counts)) == 1


# Metrics


@given(masks, seeds)
def test_metrics_of_a_mask_with_itself_and_in_any_order(mask: np.ndarray, seed: int) -> None:
    same = segmentation_metrics(mask, mask)
    assert (same["dice"], same["jaccard"], same["hd95"], same["asd"]) == (1, 1, 0, 0)
    other = np.random.default_rng(seed).permutation(mask.ravel()).reshape(mask.shape)
    one, two = segmentation_metrics(mask, other), segmentation_metrics(other, mask)
    assert one["dice"] == two["dice"]
    assert one["hd95"] == pytest.approx(two["hd95"])
    assert 0 <= one["jaccard"] <= one["dice"] <= 1
    assert one["dice"] == pytest.approx(2 * one["jaccard"] / (1 + one["jaccard"]))
    assert one["hd95"] <= np.linalg.norm(mask.shape) or not mask.any()
    flipped = segmentation_metrics(mask[::-1], other[::-1])
    moved = segmentation_metrics(np.pad(mask, 2), np.pad(other, 2))
    for key, value in one.items():
        assert flipped[key] == pytest.approx(value)
        assert moved[key] == pytest.approx(value)
    doubled = segmentation_metrics(mask, other, (2.0, 2.0, 2.0))
    if mask.any():
        assert doubled["hd95"] == pytest.approx(2 * one["hd95"])


@given(shapes, st.integers(2, 5), seeds)
def test_dice_per_class_is_the_metrics_dice(shape: tuple, classes: int, seed: int) -> None:
    prediction, truth = labels_like(shape, seed, classes), labels_like(shape, seed + 1, classes)
    by_class = dice_per_class(prediction, truth, classes)
    for c, dice in enumerate(by_class, start=1):
        assert dice == pytest.approx(segmentation_metrics(prediction == c, truth == c)["dice"])


# Refinement


@given(shapes, st.lists(shapes, min_size=1, max_size=4), st.integers(2, 4), seeds)
def test_a_vote_elects_what_somebody_voted_for(shape: tuple, others: list, classes: int, seed: int) -> None:
    label = labels_like(shape, seed, classes)
    voters = [labels_like(other, seed + i, classes) for i, other in enumerate(others, start=1)]
    weights = np.random.default_rng(seed).random(len(voters)).astype(np.float32) + 0.01
    elected = vote(label, voters, weights, classes)
    ballots = np.stack([resize_nearest(voter, shape) for voter in voters])
    assert (elected.shape, elected.dtype) == (shape, np.uint8)
    assert (ballots == elected).any(0).all()
    assert np.array_equal(vote(label, voters, weights * 0, classes), label)
    assert np.array_equal(vote(label, voters, weights * 4, classes), elected)


@given(st.integers(2, 8), st.floats(0, 1), st.integers(1, 6), seeds)
def test_only_uncertain_volumes_are_refined(count: int, quantile: float, k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    names = [f"v{i}" for i in range(count)]
    labels = {name: labels_like((3, 4, 2), seed + i) for i, name in enumerate(["t", *names])}
    before = {name: label.copy() for name, label in labels.items()}
    uncertainty = {name: float(generator.random()) for name in names}
    features = {name: generator.standard_normal(5) for name in labels}
    features = {name: vector / np.linalg.norm(vector) for name, vector in features.items()}
    uncertain = uncertain_volumes(uncertainty, quantile)
    refined = refine(labels, uncertainty, features, 3, k, quantile)
    assert set(refined) in (set(), set(uncertain))
    assert bool(refined) == (bool(uncertain) and len(labels) - len(uncertain) >= k)
    assert max(uncertainty, key=uncertainty.get) in uncertain
    for name, label in labels.items():
        assert np.array_equal(label, before[name])


# Lists


@given(st.text(max_size=60) | st.lists(st.sampled_from(["a", "b c", "é", "x.1"]), max_size=4).map("\n".join))
def test_any_text_is_a_list_of_plain_names_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.txt"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            names = Dataset(Path(folder)).names("train.txt")
        except InputError as error:
            assert str(path) in str(error)
            return
        assert names
        assert len(set(names)) == len(names)
        for name in names:
            assert name == name.strip()
            assert Dataset(Path(folder)).path(name).parent == Path(folder) / "data"


@given(st.binary(max_size=80))
def test_any_bytes_are_a_list_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "val.txt").write_bytes(content)
        try:
            assert Dataset(Path(folder)).names("val.txt")
        except InputError as error:
            assert "val.txt" in str(error)


@given(
    st.lists(st.sampled_from(["a", "b", "c d", "e-1", "ü"]), min_size=1, max_size=5, unique=True),
    st.sampled_from(["\n", "\r\n", "\n\n", "\r\n \r\n"]), st.booleans(), st.sampled_from(["", ",0.5", ", x ,y"]),
)  # fmt: skip
def test_lists_of_every_make_name_the_same_volumes(names: list[str], end: str, mark: bool, more: str) -> None:
    text = ("\ufeff" if mark else "") + "".join(f" {name}{more}{end}" for name in names)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test.txt").write_bytes(text.encode())
        assert Dataset(Path(folder)).names("test.txt") == names
