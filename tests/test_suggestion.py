"""Which scan to label: the typical one before any label exists, the telling one after a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import suggest_template
import train_SemiSAM_O1
from semisam_o1.data.volumes import write_volume
from semisam_o1.errors import run_command
from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.features.representativeness import distances_between, rank
from tiny_cohort import train_flags, write_cohort


def features(*spatial: np.ndarray) -> dict[str, VolumeFeatures]:
    return {f"s{i}": VolumeFeatures(array, np.ones(1), (4, 4, 4)) for i, array in enumerate(spatial)}


def test_distance_is_to_the_most_similar_cell_wherever_it_lies() -> None:
    generator = np.random.default_rng(0)
    first = generator.standard_normal((3, 4, 3, 2)).astype(np.float32)
    shuffled = first[:, ::-1, :, ::-1]
    other = first + 5
    distances = distances_between(features(first, shuffled, other))
    assert np.isnan(np.diag(distances)).all()
    np.testing.assert_allclose(np.nanmean(distances, axis=0), 1, rtol=1e-6)
    assert distances[0, 1] < 1e-5 and distances[1, 0] < 1e-5
    assert distances[2, 0] > 1.9


def test_medoid_comes_first_and_an_odd_scan_last() -> None:
    generator = np.random.default_rng(1)
    centre = generator.standard_normal((4, 3, 3, 3)).astype(np.float32)
    scans = [centre + 0.5 * generator.standard_normal(centre.shape).astype(np.float32) for _ in range(6)]
    scans[2] = centre
    scans[4] = 4 * generator.standard_normal(centre.shape).astype(np.float32)
    ranking = rank(features(*scans))
    assert (ranking[0].name, ranking[-1].name) == ("s2", "s4")
    assert all(c.nearest <= c.distance <= c.farthest for c in ranking)


def test_command_needs_no_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(4):
        image = np.random.default_rng(index).standard_normal((20, 18, 16)).astype(np.float32)
        write_volume(tmp_path / "data" / f"p{index}.h5", image)
    (tmp_path / "train.txt").write_text("p0\np1\np2\np3\n")
    assert run_command(suggest_template.main, [str(tmp_path), "--top", "2", "--features", "builtin"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "4"]
    assert lines[5] == f"suggested template: {lines[2].split()[1]}"
    assert run_command(suggest_template.main, [str(tmp_path), "--features", "builtin"]) == 0
    assert "features" in {path.name for path in tmp_path.iterdir()}


def test_after_a_run_uncertain_and_typical_scans_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cohort(tmp_path / "data")
    flags = ["--run", str(tmp_path / "run")]
    assert run_command(suggest_template.main, flags) == 2
    assert run_command(train_SemiSAM_O1.main, train_flags(root, tmp_path / "run")) == 0
    capsys.readouterr()
    assert run_command(suggest_template.main, flags) == 0
    lines = capsys.readouterr().out.splitlines()
    names, scores = zip(*((line.split()[0], float(line.split()[1])) for line in lines[2:7]), strict=True)
    assert sorted(names) == [f"train{i}" for i in range(1, 6)]
    assert list(scores) == sorted(scores, reverse=True)
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
