"""Which scan to label: the typical one before any label exists, the one that stands for bad labels after a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import suggest_template
import train_SemiSAM_O1
from semisam_o1.commands import suggestion
from semisam_o1.commands.suggestion import label_quality, rank_next
from semisam_o1.core.errors import InputError, run_command
from semisam_o1.data.dataset.volumes import Volume, write_volume
from semisam_o1.features.builtin import cell_means
from semisam_o1.features.extract import FEATURE_SETS, global_feature
from semisam_o1.propagation.representativeness import Distances
from semisam_o1.runs.results import RunResults, read_run
from tiny_cohort import train_flags, write_cohort


def test_command_needs_no_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(4):
        image = np.random.default_rng(index).standard_normal((20, 18, 16)).astype(np.float32)
        write_volume(tmp_path / "data" / f"p{index}.h5", Volume(f"p{index}", image))
    (tmp_path / "train.txt").write_text("p0\np1\np2\np3\n")
    assert run_command(suggest_template.main, [str(tmp_path), "--top", "2", "--features", "builtin"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "4"]
    assert lines[5] == f"suggested template: {lines[2].split()[1]}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "features", "train.txt"]


def test_what_was_computed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [np.random.default_rng(index).standard_normal((20, 18, 16)).astype(np.float32) for index in range(5)]
    for index, image in enumerate(images[:4]):
        write_volume(tmp_path / "data" / f"p{index}.h5", Volume(f"p{index}", image))
    (tmp_path / "train.txt").write_text("p0\np1\np2\np3\n")
    assert run_command(suggest_template.main, [str(tmp_path)]) == 0
    first = capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(suggestion, "distances_between", None)
        assert run_command(suggest_template.main, [str(tmp_path)]) == 0
        assert capsys.readouterr().out == first
        write_volume(tmp_path / "data" / "p3.h5", Volume("p3", images[4]))
        assert run_command(suggest_template.main, [str(tmp_path)]) == 1, "another scan of that name"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two labeled and four unlabeled scans."""
    folder = tmp_path_factory.mktemp("run")
    flags = train_flags(write_cohort(folder / "data"), folder / "run", labeled_num=2)
    assert run_command(train_SemiSAM_O1.main, flags) == 0
    return folder


@pytest.fixture
def judged(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Sequence[float]], Sequence[float]], Path]:
    """A function that states expected Dice and uncertainty of the last round's labels and returns the run.

    Of its unlabeled scans, train4 is near to all but train5, and train3 to train5 alone.
    """
    (run,) = trained.glob("run_*/unet_3D")
    train = [f"train{i}" for i in range(6)]
    near = {("train4", "train2"): 0.5, ("train4", "train3"): 0.5, ("train3", "train5"): 0.2}
    near |= {("train1", name): 1.0 for name in train}
    values = [[np.nan if a == b else near.get((a, b), 1.5) for b in train] for a in train]
    monkeypatch.setattr(suggestion, "cohort_distances", lambda *_: Distances(train, train, np.array(values)))
    names = train[2:]

    def state(expected: dict[str, Sequence[float]], uncertainty: Sequence[float]) -> Path:
        with h5py.File(run / "pseudo_labels" / "round1.h5", "r+") as file:
            for name, value in zip(names, uncertainty, strict=True):
                file[name].attrs["uncertainty"] = value
                file[name].attrs.pop("expected_dice", None)
            for name, dice in expected.items():
                file[name].attrs["expected_dice"] = dice
        return run

    return state


def test_after_a_run_those_that_stand_for_failing_labels_come_first(
    judged: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    dice = {"train2": (0.95, 0.85), "train3": (0.9, 0.9), "train4": (0.9, 0.9), "train5": (0.2, 0.0)}
    run = judged(dice, (0.9, 0.1, 0.1, 0.1))
    assert run_command(suggest_template.main, ["--run", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("by what the others gain; these count by their 1 − expected Dice")
    assert lines[1].split()[:4] == ["place", "scan", "expected", "Dice"]
    rows = [line.split() for line in lines[2:6]]
    assert (rows[0][1], rows[0][2]) == ("train3", "0.900")
    assert rows[0][3] == f"{0.9 * (1.0 - 0.2) / (0.1 + 0.1 + 0.9):.3f}"
    assert "label next: train3" in lines
    assert "add_label.py" in lines[-1] and lines[-1].endswith(" train3 MASK --labeled_num 2")


def test_where_the_expected_dice_of_a_label_is_not_known_the_uncertainty_counts(
    judged: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = judged({"train2": (0.0, 0.0), "train3": (1.0, 1.0), "train4": (1.0, 1.0)}, (0.1, 0.1, 0.1, 0.9))
    assert run_command(suggest_template.main, ["--run", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("these count by their uncertainty")
    rows = [line.split() for line in lines[2:6]]
    assert (rows[0][1], rows[0][2]) == ("train3", "0.1000")
    assert rows[0][3] == f"{0.9 * (1.0 - 0.2) / (0.1 + 0.1 + 0.9):.3f}"


def round0_alone(run: Path) -> RunResults:
    """A run as it stands before its first round of training is finished."""
    results = read_run(run)
    return replace(results, records=results.records[:1])


def test_labels_of_round_0_are_judged_too(judged: Callable[..., Path]) -> None:
    results = round0_alone(judged({}, (0.1, 0.1, 0.1, 0.9)))
    with h5py.File(results.folder.pseudo_labels(0), "r+") as file:
        assert all("expected_dice" in file[name].attrs for name in results.unlabeled), "as the atlas writes them"
        for name in results.unlabeled:
            del file[name].attrs["expected_dice"]
    with pytest.raises(InputError, match="round 0 does not tell how good its labels are; train"):
        label_quality(results)
    with h5py.File(results.folder.pseudo_labels(0), "r+") as file:
        for name, dice in zip(results.unlabeled, (0.9, 0.9, 0.9, 0.1), strict=True):
            file[name].attrs["expected_dice"] = (dice, dice)
    quality = label_quality(results)
    assert quality.failing == pytest.approx(dict(zip(results.unlabeled, (0.1, 0.1, 0.1, 0.9), strict=True)))
    assert rank_next(results, quality, "builtin", Path(), torch.device("cpu"))[0].name == "train3"


def test_a_run_is_asked_by_the_real_way(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = trained.glob("run_*/unet_3D")
    assert run_command(suggest_template.main, ["--run", str(run), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 unlabeled scans after round 1")
    gains = [float(line.split()[3]) for line in lines[2:5]]
    assert gains == sorted(gains, reverse=True)


def test_a_damaged_round_is_named_and_does_not_count_once_moved_away(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = trained.glob("run_*/unet_3D")
    labels = run / "pseudo_labels"
    with h5py.File(labels / "round1.h5") as file:
        record = json.loads(file.attrs["record"])
    shutil.copy(labels / "round1.h5", labels / "round2.h5")
    with h5py.File(labels / "round2.h5", "r+") as file:
        file.attrs["record"] = json.dumps(record | {"round": 2})
    whole = (labels / "round1.h5").read_bytes()
    (labels / "round1.h5").write_bytes(whole[:100])
    try:
        assert run_command(suggest_template.main, ["--run", str(run)]) == 2
        assert "round1.h5 cannot be read" in capsys.readouterr().err
        (labels / "round1.h5").unlink()
        assert run_command(suggest_template.main, ["--run", str(run)]) == 0
    finally:
        (labels / "round1.h5").write_bytes(whole)
        (labels / "round2.h5").unlink()
    assert "after round 2 of" in capsys.readouterr().out


@pytest.mark.parametrize("names", [("train0", "train2", "train1"), ("train0", "train1"), ("train0", "train1", "test0")])
def test_a_list_that_is_not_that_of_the_run(
    names: tuple[str, ...], trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = trained.glob("run_*/unet_3D")
    path = trained / "data" / "train.txt"
    before = path.read_text()
    path.write_text("\n".join(names))
    try:
        assert run_command(suggest_template.main, ["--run", str(run)]) == 2
    finally:
        path.write_text(before)
    assert "train.txt is not what" in capsys.readouterr().err


def test_a_run_without_a_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(suggest_template.main, ["--run", str(tmp_path / "run")]) == 2
    assert "run" in capsys.readouterr().err


def test_command_compares_another_feature_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Means:
        key = "means-v1"

        def __call__(self, image: np.ndarray) -> np.ndarray:
            asked.append(image.shape)
            return cell_means(image, (4, 4, 4))[None]

        def patch_size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
            return shape

        global_feature = staticmethod(global_feature)

    monkeypatch.setitem(FEATURE_SETS, "means", lambda checkpoint, device: Means())
    seen = []
    monkeypatch.setattr(suggestion, "distances_between", lambda image, shapes, features, **_: seen.append(features) or
                        Distances(list(shapes), list(shapes), np.ones((3, 3))))  # fmt: skip
    for i in range(3):
        image = np.random.default_rng(i).random((12, 14, 16), np.float32)
        write_volume(tmp_path / "data" / f"p{i}.h5", Volume(f"p{i}", image))
    (tmp_path / "train.txt").write_text("p0\np1\np2\n")
    assert run_command(suggest_template.main, [str(tmp_path), "--features", "means"]) == 0
    assert len(asked) == 3 and set(seen[0]) == {"p0", "p1", "p2"}
    assert run_command(suggest_template.main, [str(tmp_path), "--features", "builtin"]) == 0
    assert seen[1] is None


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "give either ROOT"),
        (["ROOT", "--run", "x"], "give either ROOT"),
        (["ROOT", "--top", "0"], "--top must be at least 1"),
        (["ROOT", "--list", "none.txt"], "none.txt is missing"),
        (["ROOT", "--list", "two.txt"], "names 2 scans"),
        (["ROOT", "--features", "sam", "--sam_ckpt", "/nowhere.pth"], "is missing; download"),
    ],
)
def test_unusable_arguments(
    flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort(tmp_path)
    (tmp_path / "two.txt").write_text("train0\ntrain1\n")
    assert run_command(suggest_template.main, [flag.replace("ROOT", str(tmp_path)) for flag in flags]) == 2
    assert sentence in capsys.readouterr().err
