"""The synthetic cohort: reproducible, complete, and not to be segmented by intensity alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label

from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.demo.phantom import PhantomCohort, make_subject

COMMAND = Path(__file__).resolve().parents[2] / "code" / "make_demo.py"
SMALL = (34, 30, 26)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COMMAND, "--data_only", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A smaller cohort of make demo's seed: 16, 3 and 6 subjects."""
    root = tmp_path_factory.mktemp("demo")
    PhantomCohort(7, train=16).write(root)
    return Dataset(root)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_subject_follows_from_the_generator_alone() -> None:
    image, truth = make_subject((31, 28, 23), np.random.default_rng(3))
    again = make_subject((31, 28, 23), np.random.default_rng(3))
    other = make_subject((31, 28, 23), np.random.default_rng(4))
    assert (image.shape, image.dtype) == ((31, 28, 23), np.float32)
    assert (truth.shape, truth.dtype) == ((31, 28, 23), np.uint8)
    assert abs(image.mean()) < 1e-4
    assert abs(image.std() - 1) < 1e-4
    assert np.array_equal(image, again[0])
    assert np.array_equal(truth, again[1])
    assert dice(truth == 1, other[1] == 1) < 0.97


def test_without_spread_subjects_differ_in_the_image_only() -> None:
    first, second = (make_subject(SMALL, np.random.default_rng(seed), spread=0) for seed in (1, 2))
    assert np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], second[0])


def test_lists_name_the_template_first_and_every_file(demo: Dataset) -> None:
    lists = {name: demo.names(f"{name}.txt") for name in ("train", "val", "test")}
    assert {name: len(names) for name, names in lists.items()} == {"train": 16, "val": 3, "test": 6}
    assert lists["train"][0] == "train_00"
    named = {name for names in lists.values() for name in names}
    assert {path.name for path in (demo.root / "data").iterdir()} == {f"{name}.h5" for name in named}


def test_every_subject_is_whole(demo: Dataset) -> None:
    shapes = set()
    for name in (name for part in ("train", "val", "test") for name in demo.names(f"{part}.txt")):
        volume = demo.load(name)
        shapes.add(volume.image.shape)
        assert len(set(volume.image.shape)) == 3, "the axes of a scan differ, so that a mixed-up order shows"
        assert volume.geometry.known
        assert volume.geometry.spacing == (1.5, 1.5, 1.5)
        assert np.isfinite(volume.image).all()
        assert set(np.unique(volume.label)) == {0, 1, 2}
        for index in (1, 2):
            organ = volume.label == index
            parts = np.bincount(label(organ)[0][organ])
            assert organ.sum() > 500
            assert parts.max() > 0.95 * organ.sum(), f"{name}: class {index} lies in pieces"
        assert (binary_dilation(volume.label == 1) & (volume.label == 2)).any(), f"{name}: the organs touch"
    assert len(shapes) > 10


def test_brightness_does_not_tell_the_organs(demo: Dataset) -> None:
    scores = []
    for name in demo.names("test.txt"):
        volume = demo.load(name)
        for index in (1, 2):
            organ = volume.label == index
            low, high = np.percentile(volume.image[organ], (10, 90))
            scores.append(dice((volume.image >= low) & (volume.image <= high), organ))
    assert max(scores) < 0.8
    assert np.mean(scores) < 0.5


def test_templates_label_in_the_middle_is_a_start_and_no_more(demo: Dataset) -> None:
    def middle(volume: np.ndarray) -> np.ndarray:
        start = [(size - 34) // 2 for size in volume.shape]
        return volume[tuple(slice(first, first + 34) for first in start)]

    template, *others = (middle(demo.load(name).label) for name in demo.names("train.txt"))
    for index in (1, 2):
        scores = [dice(template == index, other == index) for other in others]
        assert 0.25 < np.mean(scores) < 0.7
        assert np.std(scores) > 0.05


def test_a_larger_cohort_has_the_same_subjects(tmp_path: Path) -> None:
    PhantomCohort(5, 1, 1, 1, SMALL).write(tmp_path / "one")
    PhantomCohort(5, 2, 1, 1, SMALL).write(tmp_path / "two")
    one, two = Dataset(tmp_path / "one"), Dataset(tmp_path / "two")
    for name in ("train_00", "val_00", "test_00"):
        assert np.array_equal(one.load(name).image, two.load(name).image)
    labels = {two.load(name).label.tobytes() for name in ("train_00", "train_01", "val_00", "test_00")}
    assert len(labels) == 4


def test_a_changed_folder_is_not_the_cohort(tmp_path: Path) -> None:
    cohort = PhantomCohort(5, 2, 1, 1, SMALL)
    cohort.write(tmp_path)
    assert cohort.is_in(tmp_path)
    assert not PhantomCohort(6, 2, 1, 1, SMALL).is_in(tmp_path)
    assert not PhantomCohort(5, 1, 1, 1, SMALL).is_in(tmp_path)
    (tmp_path / "data" / "val_00.h5").unlink()
    assert not cohort.is_in(tmp_path)


def test_command_keeps_its_own_cohort_and_refuses_anything_else(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = run(folder)
    assert (done.returncode, done.stdout) == (0, f"{folder}: the demo's scans of seed 21 written\n"), done.stderr
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    done = run(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "kept" in done.stdout
    done = run(folder, "--seed", 8)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert "--overwrite" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    assert run(folder, "--seed", 8, "--overwrite").returncode == 0
    assert PhantomCohort(8).is_in(folder)


def test_command_explains_unusable_arguments(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert "is a file" in run(tmp_path / "file").stderr
    assert run(tmp_path / "new", "--seed", -1).returncode == 2
    assert not (tmp_path / "new").exists()
