"""What is found in the layouts that people have, through the real command."""

from __future__ import annotations

import json
import locale
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import prepare_data
from image_files import make_decathlon, scan, write, write_dicom
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preparation.formats import read_image


def prepare(*flags: object) -> int:
    return run_command(prepare_data.main, [str(flag) for flag in flags])


def test_dicom_series_become_scans_and_take_labels_drawn_in_other_formats(tmp_path: Path) -> None:
    for index in range(2):
        write_dicom(tmp_path / "images" / f"p{index}", scan(index) - 100, f"1.2.3.{index + 5}")
    label = sitk.GetImageFromArray(np.ascontiguousarray((scan(0) > 250).astype(np.uint8).T))
    label.SetSpacing((0.7, 0.7, 2.0))
    label.SetOrigin((-5, 10, 30))
    (tmp_path / "labels").mkdir()
    sitk.WriteImage(label, str(tmp_path / "labels" / "p0.nrrd"))
    flags = ("--images", tmp_path / "images", "--labels", tmp_path / "labels", "--template", "p0")
    assert prepare("dicom", *flags, "--orientation", "keep", "--intensity", "keep", tmp_path / "out") == 0
    volume = Dataset(tmp_path / "out").load("p0")
    np.testing.assert_array_equal(volume.image, scan(0) - 100)
    np.testing.assert_array_equal(volume.label, scan(0) > 250)
    np.testing.assert_allclose(volume.geometry.spacing, (0.7, 0.7, 2.0), atol=1e-4)
    np.testing.assert_allclose(volume.geometry.origin, (-5, 10, 30), atol=1e-4)
    assert volume.source == str(tmp_path / "images" / "p0")


def test_reading_dicom_leaves_the_locale_alone(tmp_path: Path) -> None:
    before = locale.setlocale(locale.LC_ALL)
    write_dicom(tmp_path / "p", scan(0))
    read_image(tmp_path / "p")
    assert locale.setlocale(locale.LC_ALL) == before


def test_dicom_series_with_a_gap_and_folders_with_two_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_dicom(tmp_path / "gap" / "p0", scan(0), skip=3)
    write_dicom(tmp_path / "two" / "p0", scan(0), "1.2.3.8")
    write_dicom(tmp_path / "two" / "p0", scan(1), "1.2.3.9")
    for folder, reason in (("gap", "slices are missing"), ("two", "must hold one DICOM series")):
        assert prepare("dicom", "--images", tmp_path / folder, tmp_path / "out") == 2
        assert reason in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_decathlon_task_with_names_of_its_classes(tmp_path: Path) -> None:
    make_decathlon(tmp_path / "task", 1)
    flags = ("--template", "case_1", "--label_map", "2=1,1=2", tmp_path / "out")
    assert prepare("decathlon", tmp_path / "task", *flags) == 0
    dataset = Dataset(tmp_path / "out")
    assert dataset.names("train.txt") == ["case_1", "case_3"] or dataset.load("case_3").label is None
    np.testing.assert_array_equal(dataset.load("case_0").label[::-1, ::-1], np.array([0, 2, 1])[scan(0) % 3])
    names = json.loads((tmp_path / "out" / "preparation.json").read_text())["class_names"]
    assert names == {"1": "Posterior", "2": "Anterior"}


def test_decathlon_task_with_several_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_decathlon(tmp_path / "task", 2)
    flags = ("--template", "case_1", "--intensity", "keep", "--orientation", "keep", tmp_path / "out")
    assert prepare("nnunet", tmp_path / "task", *flags) == 2
    assert "choose a channel" in capsys.readouterr().err
    assert prepare("nnunet", tmp_path / "task", "--channel", 2, *flags) == 2
    assert "has 2 channels" in capsys.readouterr().err
    assert prepare("nnunet", tmp_path / "task", "--channel", 1, *flags) == 0
    np.testing.assert_array_equal(Dataset(tmp_path / "out").load("case_2").image, scan(21))


def test_nnunet_dataset_with_a_file_per_channel(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset001_Heart"
    for index in range(3):
        for channel in range(2):
            write(folder / "imagesTr" / f"heart_{index}_{channel:04d}.nrrd", scan(10 * index + channel))
        write(folder / "labelsTr" / f"heart_{index}.nrrd", (scan(index) > 250).astype(np.uint8))
    write(folder / "imagesTs" / "heart_9_0001.nrrd", scan(91))
    described = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "atrium": 1},
        "file_ending": ".nrrd",
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    flags = ("--channel", 1, "--template", "heart_0", "--intensity", "keep", "--orientation", "keep")
    assert prepare("nnunet", folder, *flags, tmp_path / "out") == 0
    dataset = Dataset(tmp_path / "out")
    np.testing.assert_array_equal(dataset.load("heart_1").image, scan(11))
    assert dataset.load("heart_9").label is None
    assert "heart_9" in dataset.names("train.txt")


@pytest.mark.parametrize("style", ["2019", "2023"])
def test_brats_release(style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endings = {"2019": ("_flair", "_t2", "_seg"), "2023": ("-t2f", "-t2w", "-seg")}[style]
    for index in range(3):
        case = tmp_path / "brats" / "HGG" / f"BraTS_{index}"
        brain = scan(index)
        brain[:3] = 0
        write(case / f"{case.name}{endings[0]}.nii.gz", brain)
        write(case / f"{case.name}{endings[1]}.nii.gz", scan(index + 5))
        write(
            case / f"{case.name}{endings[2]}.nii.gz", np.where(scan(index) > 400, 4, scan(index) > 300).astype(np.uint8)
        )
    flags = ("--template", "BraTS_2", "--label_map", "4=3", "--crop", "3,8,0,7,0,6", "--margin", 0)
    assert prepare("brats", tmp_path / "brats", "--modality", "flair", *flags, tmp_path / "out") == 0
    volume = Dataset(tmp_path / "out").load("BraTS_1")
    assert volume.image.shape == (6, 8, 7)
    assert set(np.unique(volume.label)) == {0, 1, 3}
    assert abs(volume.image.mean()) < 1e-4
    told = capsys.readouterr().out
    assert "values 1, 3 are not numbered from 1" in told
    assert "with --label_map 4=2 --overwrite" in told
    assert "binary" not in told
    assert prepare("brats", tmp_path / "brats", "--modality", "t1", *flags, tmp_path / "two") == 2
    assert "no t1 image of BraTS_0" in capsys.readouterr().err


def test_brats2019_has_its_standard_lists_and_other_releases_a_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = Path(prepare_data.__file__).parents[1] / "data" / "BraTS2019"
    names = [(lists / f"{part}.txt").read_text().split()[0].split(",")[0] for part in ("train", "val", "test")]
    for name in names:
        write(tmp_path / "known" / name / f"{name}_flair.nii.gz", scan(1))
        write(tmp_path / "known" / name / f"{name}_seg.nii.gz", (scan(1) > 400).astype(np.uint8))
    assert prepare("brats", tmp_path / "known", tmp_path / "out") == 0
    dataset = Dataset(tmp_path / "out")
    assert [dataset.names(f"{part}.txt") for part in ("train", "val", "test")] == [[name] for name in names]
    assert (lists / "train.txt").read_text().split()[0].startswith(names[0])
    for case in (tmp_path / "other" / "BraTS_8", tmp_path / "other" / "BraTS_9"):
        write(case / f"{case.name}_flair.nii.gz", scan(1))
        write(case / f"{case.name}_seg.nii.gz", (scan(1) > 400).astype(np.uint8))
    assert prepare("brats", tmp_path / "other", tmp_path / "two") == 2
    assert "--template is missing" in capsys.readouterr().err


def test_scans_are_converted_in_processes_alike(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / "images" / f"s{index}.mha", scan(index))
    for workers in (1, 2):
        assert prepare("nifti", "--images", tmp_path / "images", "--workers", workers, tmp_path / str(workers)) == 0
    for index in range(3):
        first, second = (Dataset(tmp_path / str(workers)).load(f"s{index}").image for workers in (1, 2))
        np.testing.assert_array_equal(first, second)


def test_what_is_skipped_is_told_in_every_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_decathlon(tmp_path / "decathlon", 1)
    write(tmp_path / "decathlon" / "imagesTr" / "more.nii.gz", scan(7))
    (tmp_path / "decathlon" / "imagesTr" / "notes.txt").write_text("x")
    (tmp_path / "decathlon" / "imagesTr" / "._case_0.nii.gz").write_text("x")
    assert prepare("nnunet", tmp_path / "decathlon", "--template", "case_0", tmp_path / "a") == 0
    told = " ".join(capsys.readouterr().out.split())
    for part in ("1 hidden (._case_0", "1 of other formats (notes.txt)", "not in dataset.json (more.nii.gz)"):
        assert part in told

    for name in ("BraTS_1", "BraTS_2"):
        write(tmp_path / "brats" / "HGG" / name / f"{name}_flair.nii.gz", scan(1))
    (tmp_path / "brats" / "HGG" / "papers").mkdir()
    assert prepare("brats", tmp_path / "brats", tmp_path / "b") == 0
    assert "skipped: 1 folders without files of that name (papers)" in capsys.readouterr().out
