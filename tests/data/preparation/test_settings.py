"""Cropping, renaming labels, and settings that come back from their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prepare_data
from semisam_o1.commands.export import write_image
from semisam_o1.core.errors import InputError, run_command
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Grid
from semisam_o1.data.preparation.settings import Preparation, body_box, parse_labels, prepare, remap
from semisam_o1.data.preparation.summary import fitting_patch

GRID = Grid((40, 30, 20), Geometry((1.0, 1.0, 2.0), known=True))


def phantom() -> np.ndarray:
    """Return CT-like values: air, a body, and a small table below it."""
    x, y, _ = np.indices(GRID.size)
    image = np.full(GRID.size, -1000, np.int16)
    image[((x - 20) / 11) ** 2 + ((y - 13) / 8) ** 2 < 1] = 40
    image[5:35, 27:29, :] = 60
    return image + np.random.default_rng(0).integers(-9, 10, GRID.size).astype(np.int16)


def test_body_is_found_and_the_margin_is_in_millimeters() -> None:
    box = body_box(phantom())
    assert all(abs(part.start - start) <= 2 and abs(part.stop - stop) <= 2
               for part, start, stop in zip(box, (10, 6, 0), (31, 21, 20), strict=True))  # fmt: skip
    assert body_box(np.ones((3, 4, 5))) == [slice(0, 3), slice(0, 4), slice(0, 5)]
    settings = Preparation(orientation="keep", crop=(20, 22, 10, 12, 10, 11), margin=4, intensity="keep")
    volume = prepare("a", phantom(), None, GRID, settings)
    np.testing.assert_array_equal(volume.image, phantom()[16:27, 6:17, 8:14])
    assert volume.geometry.origin == (16.0, 6.0, 16.0)
    assert volume.original == GRID


def test_crop_never_looks_at_the_label() -> None:
    label = np.zeros(GRID.size, np.uint8)
    label[0, 0, 0] = 1
    settings = Preparation(crop="body", margin=2, intensity="window", window=(-160, 240))
    with_label = prepare("a", phantom(), label, GRID, settings)
    without = prepare("a", phantom(), None, GRID, settings)
    np.testing.assert_array_equal(with_label.image, without.image)
    assert with_label.image.min() == -1
    assert not with_label.label.any()


def test_label_values_are_renamed() -> None:
    assert parse_labels("3=1, 4=2,other=0") == ({3: 1, 4: 2}, 0)
    label = np.array([0, 1, 2, 3, 4], np.uint8).reshape(5, 1, 1)
    assert remap(label, {3: 1, 4: 2}).ravel().tolist() == [0, 1, 2, 1, 2]
    assert remap(label, {3: 1, 4: 2}, 0).ravel().tolist() == [0, 0, 0, 1, 2]
    for text in ("3:1", "a=1", "3=1,3=2", "300=1", ""):
        with pytest.raises(InputError, match="--labels"):
            parse_labels(text)


def test_settings_come_back_from_json() -> None:
    settings = Preparation(
        "LPS", (1.0, 2.0, 3.0), (0, 1, 2, 3, 4, 5), 3.0, "window", (-10.0, 90.0), {3: 1}, 0, "nearest", 2
    )
    assert Preparation.from_json(settings.to_json(), "x") == settings
    assert Preparation.from_json(Preparation().to_json(), "x") == Preparation()
    for wrong in ({"spacing": [0, 1, 1]}, {"orientation": "XYZ"}, {"labels": {"a": 1}}, {"labels": 3}):
        with pytest.raises(InputError, match="x holds no settings"):
            Preparation.from_json(wrong, "x")


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
    return run_command(prepare_data.main, [str(word) for word in (*words, folder / "out")])


def test_bounds_of_each_scan_come_from_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bounds.csv").write_text("name,x0,x1,y0,y1,z0,z1\na,15,25,8,16,6,13\nb,10,29,0,29,0,19\n")
    flags = ("--crop", folder / "bounds.csv", "--margin", 0, "--labels", "7=1", "--window", -160, 240)
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
        (("--spacing", "-1"), "--spacing must be positive"),
        (("--orientation", "RAR"), "--orientation must name each axis once"),
        (("--window", "ribs"), "low and high, or one of abdomen"),
        (("--window", "5", "1"), "rise from low to high"),
        (("--window", "lung", "--intensity", "keep"), "use one of the two"),
        (("--labels", "7=x"), "must look like 3=1"),
        (("--labels", "other"), "names two folders"),
        (("--crop", "nowhere.csv"), "neither 'body', six numbers"),
        (("--crop", "9,0,0,9,0,9"), "the first voxel comes first"),
        (("--channel", "-1"), "counts from 0"),
        (("--crop", "39,39,0,9,0,9", "--margin", "0", "--intensity", "keep"), "is gone"),
    ],
)
def test_unusable_settings_end_with_2_and_say_why(
    folder: Path, flags: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *flags) == 2
    assert sentence in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_patch_is_suggested_that_fits_the_scans() -> None:
    assert fitting_patch([(190, 140, 88), (200, 150, 90)]) == (128, 128, 96)
    assert fitting_patch([(35, 50, 36)]) == (32, 48, 32)
    assert fitting_patch([(5, 20, 7)]) == (16, 32, 16)
