"""What prepare_data.py refuses or tells of: masks that lie elsewhere, slices left out, odd headers, skipped files."""

from __future__ import annotations

import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import prepare_data
import train_SemiSAM_O1
from image_files import scan, write, write_dicom
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preparation.settings import read_classes

SIZE = (24, 20, 33)


def ball() -> np.ndarray:
    places = np.indices(SIZE) - np.array((12, 10, 16)).reshape(3, 1, 1, 1)
    return ((places**2).sum(axis=0) < 8.5**2).astype(np.uint8)


def place(path: Path, array: np.ndarray, origin: tuple[float, ...] = (0, 0, 0), spacing: float = 2) -> None:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetOrigin([float(value) for value in origin])
    image.SetSpacing([float(spacing)] * 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three scans, of which a has a mask."""
    for name in "abc":
        place(tmp_path / "images" / f"{name}.nii.gz", np.random.default_rng(ord(name)).random(SIZE) + ball())
    place(tmp_path / "masks" / "a.nii.gz", ball())
    return tmp_path


def run(folder: Path, *flags: object, out: str = "out") -> int:
    words = ("nifti", "--images", folder / "images", "--labels", folder / "masks", *flags, folder / out)
    return run_command(prepare_data.main, [str(word) for word in words])


@pytest.mark.parametrize("named", [True, False])
def test_one_mask_is_enough(folder: Path, named: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, *(("--template", "a") if named else ())) == 0
    assert Dataset(folder / "out").names("train.txt") == ["a", "b", "c"]
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["data", "preparation.json", "train.txt"]
    told = capsys.readouterr().out
    assert "--recipe best" in told
    assert "--propagation" not in told
    assert "val.txt 0" not in told
    assert (read_classes(folder / "out").count, read_classes(folder / "out").name(1)) == (2, "foreground")


def test_the_command_that_is_printed_next_works_with_one_mask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[0] == "python" and Path(words[1]).is_file()
    flags = [*words[2:], "--exp", str(folder / "run"), "--device", "cpu", "--check_only"]
    assert run_command(train_SemiSAM_O1.main, flags) == 0
    assert "1 labeled, 2 unlabeled, 0 validation volumes" in flat(capsys)


def test_values_3_and_4_become_classes_and_are_not_merged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = ball() * np.uint8(3)
    label[:12][label[:12] > 0] = 4
    place(folder / "masks" / "a.nii.gz", label)
    assert run(folder) == 0
    told = capsys.readouterr().out
    assert "next: the same command again, with --label_map 3=1,4=2 --overwrite" in told
    assert "binary_label" not in told
    assert run(folder, "--label_map", "3=1,4=2", "--overwrite") == 0
    assert read_classes(folder / "out").count == 3
    assert "train_SemiSAM_O1.py" in capsys.readouterr().out


@pytest.mark.parametrize("offset", [(500, 0, 0), (0, 1, 0), (0, 0, -2)])
def test_a_displaced_mask_is_refused(folder: Path, offset: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    place(folder / "masks" / "a.nii.gz", ball(), offset)
    assert run(folder) == 2
    error = capsys.readouterr().err
    assert f"lie {max(map(abs, offset))} mm apart (their origins differ); resample the label onto the image" in error
    assert not (folder / "out").exists()


def test_a_mask_off_by_rounding_is_accepted(folder: Path) -> None:
    place(folder / "masks" / "a.nii.gz", ball(), (0.1, -0.1, 0.2))
    assert run(folder) == 0


@pytest.mark.parametrize("side", ["qform", "sform"])
def test_a_scan_with_two_positions_takes_a_mask_at_either_and_is_told_of(
    folder: Path, side: str, capsys: pytest.CaptureFixture[str]
) -> None:
    forms = {"qform": np.diag([2.0, 2, 2, 1]), "sform": np.diag([2.0, 2, 2, 1])}
    forms["sform"][0, 3] = 50
    image = nib.Nifti1Image(np.random.default_rng(0).random(SIZE), None)
    image.set_qform(forms["qform"], 1)
    image.set_sform(forms["sform"], 2)
    nib.save(image, folder / "images" / "a.nii.gz")
    nib.save(nib.Nifti1Image(ball(), forms[side]), folder / "masks" / "a.nii.gz")
    assert run(folder, "--orientation", "keep") == 0
    assert "a.nii.gz states two positions (qform and sform) that are up to 50 mm apart" in flat(capsys)
    np.testing.assert_array_equal(Dataset(folder / "out").load("a").label, ball())


def flat(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_slices_that_were_left_out_are_asked_for_and_filled(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sparse = ball()
    sparse[..., [z for z in range(SIZE[2]) if z % 4]] = 0
    place(folder / "masks" / "a.nii.gz", sparse)
    assert run(folder) == 2
    error = capsys.readouterr().err
    assert "a.nii.gz is drawn on one slice in 4 only; --label_slices 4 fills the slices between" in error
    assert not (folder / "out").exists()
    assert run(folder, "--label_slices", 3) == 2
    assert "--label_slices must be 4, it is 3" in capsys.readouterr().err
    assert run(folder, "--label_slices", 4, "--orientation", "keep") == 0
    assert "filled in the masks of a" in flat(capsys)
    label = Dataset(folder / "out").load("a").label
    assert 2 * (label & ball()).sum() / (label.sum() + ball().sum()) > 0.9
    assert (folder / "out" / "label_slices.png").read_bytes().startswith(b"\x89PNG")
    assert run(folder, "--label_slices", 1, out="as_it_is") == 0
    assert Dataset(folder / "as_it_is").load("a").label.sum() == sparse.sum()


def test_an_empty_mask_of_the_template_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place(folder / "masks" / "a.nii.gz", np.zeros(SIZE, np.uint8))
    assert run(folder) == 2
    assert "a.nii.gz shows no foreground, but is the template's label" in capsys.readouterr().err


def test_skipped_files_are_counted_by_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("notes.txt", "a.png", "._a.nii.gz"):
        (folder / "images" / name).write_text("x")
    (folder / "images" / "old").mkdir()
    (folder / "masks" / "b.jpg").write_text("x")
    assert run(folder) == 0
    told = flat(capsys)
    assert "3 of other formats (a.png, notes.txt, b.jpg)" in told
    assert "1 hidden (._a.nii.gz)" in told
    assert "1 folders without a DICOM series (old)" in told


def test_label_map_tells_of_values_that_no_mask_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--label_map", "1=1,7=2") == 0
    assert "--label_map: no mask holds the value 7" in flat(capsys)


@pytest.mark.parametrize("inside", ["images", "images/out", "masks/deep/out"])
def test_the_dataset_may_not_lie_among_the_scans(folder: Path, inside: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, out=inside) == 2
    assert "among the files that are read; name a folder elsewhere" in capsys.readouterr().err


def test_names_that_are_too_long_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place(folder / "images" / f"{'n' * 247}.mha", ball())
    assert run(folder) == 2
    assert "name of more than 200 bytes; rename it" in capsys.readouterr().err


def test_a_scan_without_a_stated_position_is_told_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nib.save(nib.Nifti1Image(scan(1), None), folder / "images" / "b.nii.gz")
    assert run(folder) == 0
    assert "b.nii.gz states no position in the patient (neither qform nor sform)" in flat(capsys)


def test_values_that_are_not_finite_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = ball().astype(np.float32)
    values[3, 4, 5] = np.nan
    place(folder / "images" / "b.nii.gz", values)
    assert run(folder) == 2
    assert "b.nii.gz holds 1 values that are not finite" in capsys.readouterr().err
    assert not (folder / "out").exists()


def dicom(folder: Path) -> int:
    return run_command(prepare_data.main, ["dicom", "--images", str(folder / "ct"), str(folder / "out")])


def test_loose_dicom_files_beside_other_scans_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dicom(tmp_path / "ct" / "p0", scan(0))
    write_dicom(tmp_path / "ct", scan(1), "1.2.3.9")
    assert dicom(tmp_path) == 2
    error = capsys.readouterr().err
    assert "holds 7 DICOM files" in error
    assert "beside other scans (p0); move the DICOM files of each series into a folder of its own" in error


def test_a_folder_of_dicom_files_is_one_scan_and_an_index_is_none(tmp_path: Path) -> None:
    write_dicom(tmp_path / "ct", scan(1))
    assert dicom(tmp_path) == 0
    assert Dataset(tmp_path / "out").names("train.txt") == ["ct"]
    write_dicom(tmp_path / "other" / "ct" / "p0", scan(0))
    (tmp_path / "other" / "ct" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert dicom(tmp_path / "other") == 0
    assert Dataset(tmp_path / "other" / "out").names("train.txt") == ["p0"]


def test_one_dicom_file_is_no_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dicom(tmp_path / "ct", scan(1))
    write(tmp_path / "images" / "a.nii.gz", scan(0))
    path = next((tmp_path / "ct").iterdir())
    (tmp_path / "images" / "b.dcm").write_bytes(path.read_bytes())
    words = ["nifti", "--images", str(tmp_path / "images"), str(tmp_path / "out")]
    assert run_command(prepare_data.main, words) == 2
    assert "holds 1 DICOM files (b.dcm) beside other scans (a)" in capsys.readouterr().err
