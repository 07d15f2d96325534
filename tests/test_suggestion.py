"""Which scan to label: the typical one before any label exists, the telling one after a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import suggest_template
import train_SemiSAM_O1
from semisam_o1.data.volumes import write_volume
from semisam_o1.errors import run_command
from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.propagation import representativeness
from semisam_o1.propagation.description import Scan
from semisam_o1.propagation.representativeness import Distances, distances_between, rank
from tiny_cohort import train_flags, write_cohort


def scans(**images: np.ndarray) -> tuple[Callable[[str], Scan], dict[str, tuple[int, ...]]]:
    return (lambda name: Scan(images[name])), {name: image.shape for name, image in images.items()}


def anatomy(seed: int) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((24, 20, 18)), 2).astype(np.float32)


def noisy(image: np.ndarray, share: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(image.shape)
    return (image + share * image.std() * noise).astype(np.float32)


def test_what_registration_explains_is_no_distance() -> None:
    image = anatomy(0)
    moved, brighter = ndimage.shift(image, (2, -1, 1), mode="nearest"), 3 * image + 7
    distances = distances_between(*scans(image=image, moved=moved, brighter=brighter, other=anatomy(1))).values
    assert np.isnan(np.diag(distances)).all()
    np.testing.assert_allclose(np.nanmean(distances, axis=0), 1, rtol=1e-6)
    from_image = distances[:, 0]
    assert from_image[2] < 0.01  # nothing but contrast
    assert from_image[1] < 0.5 * from_image[3]


def test_clear_typical_scans_come_first_and_odd_ones_last() -> None:
    image = anatomy(0)
    images = {f"s{i}": noisy(image, share, i) for i, share in enumerate((0.3, 0.05, 0.3, 0.6))}
    ranking = rank(distances_between(*scans(**images, odd=anatomy(5))))
    assert (ranking[0].name, ranking[-1].name) == ("s1", "odd")
    assert ranking[-2].name == "s3"
    assert all(c.nearest <= c.distance <= c.farthest for c in ranking)


def test_many_scans_are_registered_to_a_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(representativeness, "register", lambda fixed, moving, start: start)
    monkeypatch.setattr(representativeness, "MAX_PAIRS", 60)
    images = {f"s{i}": noisy(anatomy(0), 0.1, i)[:6, :6, :6] for i in range(20)}
    distances = distances_between(*scans(**images))
    assert distances.candidates == list(images)
    assert distances.targets == ["s0", "s4", "s8", "s12", "s16"]
    assert distances.values.shape == (20, 5)
    assert np.isnan(distances.values).sum() == 5


def test_targets_count_by_their_weights() -> None:
    distances = Distances(
        list("abc"), list("abc"), np.array([[np.nan, 0.5, 1.5], [0.6, np.nan, 0.5], [1.4, 1.5, np.nan]])
    )
    assert [(c.name, c.distance) for c in rank(distances)] == [("b", 0.55), ("a", 1.0), ("c", 1.45)]
    weighted = rank(distances, {"b": 3.0, "c": 1.0})
    assert [(c.name, c.distance) for c in weighted] == [("b", 0.5), ("a", 0.75), ("c", 1.5)]
    assert (weighted[1].nearest, weighted[1].farthest) == (0.5, 1.5)
    # Nothing to go by: all count the same.
    assert [c.distance for c in rank(distances, {"a": 0.0})] == [0.55, 1.0, 1.45]


def test_cells_leave_thin_axes_whole_and_are_of_one_size() -> None:
    seen = []

    def record(fixed, moving, start):
        seen.append(tuple(fixed.shape[1:]))
        return start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(representativeness, "register", record)
        patch.setattr(representativeness, "MAX_VOXELS", 2_000)
        distances_between(*scans(a=np.random.default_rng(0).random((60, 50, 9), np.float32),
                                 b=np.random.default_rng(1).random((40, 40, 9), np.float32)))  # fmt: skip
    (first, second), (w, h, _) = sorted(set(seen)), max(seen)
    assert {first[2], second[2]} == {9}
    assert w / 60 == pytest.approx(h / 50, abs=0.02) and 100 < w * h < 400


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
    found = distances_between(lambda name: Scan(noisy(image, 0.01, ord(name[0])), described[name]), shapes)
    ranking = rank(found)
    assert ranking[-1].name == "odd"
    assert ranking[-1].distance > 1.3 * ranking[0].distance


def test_command_needs_no_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(4):
        image = np.random.default_rng(index).standard_normal((20, 18, 16)).astype(np.float32)
        write_volume(tmp_path / "data" / f"p{index}.h5", image)
    (tmp_path / "train.txt").write_text("p0\np1\np2\np3\n")
    assert run_command(suggest_template.main, [str(tmp_path), "--top", "2", "--features", "builtin"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "4"]
    assert lines[5] == f"suggested template: {lines[2].split()[1]}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "train.txt"]


def test_after_a_run_those_that_stand_for_uncertain_scans_come_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_cohort(tmp_path / "data")
    flags = ["--run", str(tmp_path / "run")]
    assert run_command(suggest_template.main, flags) == 2
    assert run_command(train_SemiSAM_O1.main, train_flags(root, tmp_path / "run")) == 0
    capsys.readouterr()
    assert run_command(suggest_template.main, flags) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines[2:7]]
    names, distances = [row[1] for row in rows], [float(row[2]) for row in rows]
    assert sorted(names) == [f"train{i}" for i in range(1, 6)]
    assert distances == sorted(distances)
    assert f"label next: {names[0]}" in lines


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "give either ROOT"),
        (["ROOT", "--run", "x"], "give either ROOT"),
        (["ROOT", "--top", "0"], "--top must be at least 1"),
        (["ROOT", "--list", "none.txt"], "none.txt is missing"),
        (["ROOT", "--list", "one.txt"], "names one scan only"),
        (["ROOT", "--features", "sam", "--sam_ckpt", "/nowhere.pth"], "cannot be read"),
    ],
)
def test_unusable_arguments(
    flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort(tmp_path)
    (tmp_path / "one.txt").write_text("train0\n")
    assert run_command(suggest_template.main, [flag.replace("ROOT", str(tmp_path)) for flag in flags]) == 2
    assert sentence in capsys.readouterr().err
