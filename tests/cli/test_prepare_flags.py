"""Flags of prepare_data.py: what they change in the volumes, and how values that cannot be used are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prepare_data
from body import GRID, phantom
from semisam_o1.commands.export import write_image
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    label = np.zeros(GRID.size, np.uint8)
    label[18:24, 10:15, 8:12] = 7
    for name in ("a", "b", "c"):
        write_image(tmp_path / "images" / f"{name}.nii.gz", phantom(), GRID.geometry)
    write_image(tmp_path / "labels" / "a.nii.gz", label, GRID.geometry)
    return tmp_path


def run(folder: Path, *flags: object) -> int:
    words = ("nifti", "--images", folder / "images", "--labels", folder / "labels", "--template", "a", *flags)
    try:
        return run_command(prepare_data.main, [str(word) for word in (*words, folder / "out")])
    except SystemExit as stopped:  # argparse itself ends the command on what it cannot read
        return stopped.code


def test_bounds_of_each_scan_come_from_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bounds.csv").write_text("name,x0,x1,y0,y1,z0,z1\na,15,25,8,16,6,13\nb,10,29,0,29,0,19\n")
    flags = ("--crop", folder / "bounds.csv", "--margin", 0, "--label_map", "7=1", "--window", -160, 240)
    assert run(folder, *flags, "--orientation", "keep") == 0
    dataset = Dataset(folder / "out")
    assert [dataset.load(name).image.shape for name in "abc"] == [(11, 9, 8), (20, 30, 20), (40, 30, 20)]
    assert dataset.load("a").label.sum() == 6 * 5 * 4
    (folder / "bounds.csv").write_text("a,15,25,8,16,6\n")
    assert run(folder, *flags) == 2
    assert "line 1: a line must be NAME" in capsys.readouterr().err


def test_a_template_that_loses_its_label_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--crop", "0,9,0,9,0,9", "--margin", 0) == 2
    assert "class 7 of the template is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--spacing", "1", "2"), "must be one number or three"),
        (("--spacing", "-1"), "--spacing must lie between 0.005 and 100 mm"),
        (("--spacing", "0.001"), "--spacing must lie between 0.005 and 100 mm"),
        (("--spacing", "0.006"), "more than fit in memory"),
        (("--label_slices", "0"), "--label_slices must be at least 1"),
        (("--label_map", "5=1,6=2"), "--label_map renames 5, 6, which no mask holds (they hold 0, 7)"),
        (("--orientation", "RAR"), "--orientation must name each axis once"),
        (("--window", "ribs"), "low and high, or one of abdomen"),
        (("--window", "5", "1"), "rise from low to high"),
        (("--window", "lung", "--intensity", "keep"), "use one of the two"),
        (("--label_map", "7=x"), "must look like 3=1"),
        (("--labels", "7=1"), "renamed with --label_map"),
        (("--labels", "masks"), "names two folders"),
        (("--crop", "nowhere.csv"), "neither 'body', six numbers"),
        (("--crop", "9,0,0,9,0,9"), "the first voxel comes first"),
        (("--channel", "-1"), "--channel must be at least 0"),
        (("--crop", "39,39,0,9,0,9", "--margin", "0", "--intensity", "keep"), "is gone"),
    ],
)
def test_unusable_settings_end_with_2_and_say_why(
    folder: Path, flags: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *flags) == 2
    assert sentence in capsys.readouterr().err
    assert not (folder / "out").exists()
