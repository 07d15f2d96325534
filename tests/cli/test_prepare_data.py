"""The real command: what it prints, what it writes and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from semisam_o1.commands.export import write_image
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Volume, write_volume

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ROOT / "code" / "prepare_data.py"


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COMMAND, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Six scans (5, 6, 7), of which p0 … p3 have a label."""
    rng = np.random.default_rng(0)
    geometry = Geometry((0.5, 0.5, 2.0), (1.0, 2.0, 3.0), known=True)
    for index in range(6):
        image = rng.random((5, 6, 7)).astype(np.float32)
        write_image(tmp_path / "images" / f"p{index}.nii.gz", image, geometry)
        if index < 4:
            write_image(tmp_path / "labels" / f"p{index}.nii.gz", (image > 0.5).astype(np.uint8), geometry)
    return tmp_path


def test_nifti_folder_becomes_a_dataset(cohort: Path) -> None:
    done = run("nifti", "--images", "images", "--labels", "labels", "--template", "p2", "out", cwd=cohort)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[7].startswith("values 0.00")
    del lines[7]
    script = ROOT / "code" / "train_SemiSAM_O1.py"
    command = f"python {script} --root_path {cohort / 'out'} --exp out --recipe best"
    assert lines.pop() == command
    assert lines == [
        "out: 6 scans (6 written, 0 kept), 4 with a label",
        "lists written: train.txt 4, val.txt 1, test.txt 1",
        "found prepared",
        "size [voxels] 5 × 6 × 7 5 × 6 × 7",
        "spacing [mm] 0.5 × 0.5 × 2 0.5 × 0.5 × 2",
        "orientation LPS RAS",
        "voxel type float32 float32",
        "label values 0, 1 0, 1",
        "intensities: 0.5 to 99.5 percentile, mean 0, standard deviation 1",
        "next:",
    ]
    train = Dataset(cohort / "out").names("train.txt")
    assert train[0] == "p2"
    assert train[2:] == ["p4", "p5"]
    assert sorted(path.name for path in (cohort / "out").iterdir()) == [
        "data",
        "preparation.json",
        "test.txt",
        "train.txt",
        "val.txt",
    ]


def test_nifti_lists_and_split_come_from_the_command_line(cohort: Path) -> None:
    (cohort / "a.txt").write_text("p1\np5\n")
    (cohort / "b.txt").write_text("p0\n")
    pair = ("nifti", "--images", "images", "--labels", "labels")
    done = run(*pair, "--train", "a.txt", "--test", "b.txt", "one", cwd=cohort)
    assert done.returncode == 0, done.stderr
    assert "lists written: train.txt 2, test.txt 1\nnot written, no scan is left for it: val.txt" in done.stdout
    assert Dataset(cohort / "one").names("train.txt") == ["p1", "p5"]
    done = run(*pair, "--template", "p0", "--split", 0.5, 0, 0.5, "--seed", 5, "two", cwd=cohort)
    assert "train.txt 3, test.txt 3" in done.stdout, done.stderr


def test_scans_without_any_label_are_told_what_comes_next(cohort: Path) -> None:
    done = run("nifti", "--images", "images", "out", cwd=cohort)
    assert done.returncode == 0, done.stderr
    assert f"python {ROOT / 'code' / 'suggest_template.py'} {cohort / 'out'}" in done.stdout


def test_la_copy_gets_lists_of_the_scans_it_has(tmp_path: Path) -> None:
    names = (ROOT / "data" / "LA" / "train.txt").read_text().split()[:2]
    image = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    for name in names:
        write_volume(tmp_path / "public" / name / "mri_norm2.h5", Volume(name, image, image > 30))
    done = run("la", "public", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "lists written: train.txt 2" in done.stdout
    assert "missing of val.txt, 5 of 5" in done.stdout
    assert Dataset(tmp_path / "out").names("train.txt") == names
    np.testing.assert_array_equal(Dataset(tmp_path / "out").load(names[1]).image, image)


def test_la_copy_at_half_its_resolution_knows_its_spacing(tmp_path: Path) -> None:
    name = (ROOT / "data" / "LA" / "train.txt").read_text().split()[0]
    label = np.zeros((12, 10, 8), np.uint8)
    label[4:8, 2:6, 2:6] = 1
    write_volume(tmp_path / "public" / name / "mri_norm2.h5", Volume(name, label + np.linspace(0, 1, 8), label))
    flags = ("la", "public", "half", "--spacing", 1.25)
    done = run(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    volume = Dataset(tmp_path / "half").load(name)
    assert (volume.image.shape, volume.geometry.spacing) == ((6, 5, 4), (1.25, 1.25, 1.25))
    np.testing.assert_array_equal(np.argwhere(volume.label), np.argwhere(label[::2, ::2, ::2]))
    assert (volume.original.size, volume.original.geometry.spacing) == ((12, 10, 8), (0.625, 0.625, 0.625))
    assert "(0 written, 1 kept)" in run(*flags, cwd=tmp_path).stdout
    done = run("la", "public", "half", "--spacing", 2.5, cwd=tmp_path)
    assert done.returncode == 2
    assert "preparation.json: the scans there were prepared otherwise (spacing [1.25, 1.25, 1.25])" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("la", "nowhere", "out"), "error: nowhere is not a folder"),
        (("nifti", "--images", "nowhere", "out"), "error: nowhere is not a folder"),
        (("nifti", "--images", "images", "--template", "p0", "out"), "give --labels"),
        (("nifti", "--images", "images", "--labels", "labels", "out"), "error: --template is missing"),
        (
            ("nifti", "--images", "images", "--labels", "labels", "--template", "p5", "out"),
            "error: the template p5 cannot be used: there is no label of that name in images and labels; nothing",
        ),
        (("nnunet", "images", "out", "--labels", "3=1"), "label values are renamed with --label_map"),
        (("brats", "images", "out", "--labels", "labels"), "the labels of this layout lie in SRC"),
        (("nifti", "--images", "images", "--val", "x", "out"), "--val and --test need --train"),
        (
            ("nifti", "--images", "images", "--split", "1", "0", "0", "--train", "x", "out"),
            "use one of the two",
        ),
    ],
)
def test_unusable_arguments_end_with_2_and_one_sentence(
    cohort: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    done = run(*arguments, cwd=cohort)
    assert done.returncode == 2
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (cohort / "out").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("la", "nowhere", "out", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
