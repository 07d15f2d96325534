"""No scan and no mask is ever written onto, nothing is computed before the outputs are known to be possible."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import predict
from malformed import posix
from semisam_o1.commands import prediction, trained
from semisam_o1.commands.export import write_image
from semisam_o1.commands.outputs import check_outputs
from semisam_o1.core.errors import InputError, run_command
from semisam_o1.data.dataset.volumes import Geometry, Volume, write_volume
from standing_in import Threshold, write_ball, write_run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, and three scans, a to c, beside it."""
    monkeypatch.setattr(trained, "Predictor", Threshold)
    write_run(tmp_path)
    for name in "abc":
        write_ball(tmp_path / "scans" / f"{name}.nii.gz")
    return tmp_path


def run_predict(folder: Path, *flags: object, out: Path | None = None) -> int:
    arguments = ["--exp", folder / "run", "--scans", folder / "scans", "--out", out or folder / "out"]
    return run_command(predict.main, [str(part) for part in (*arguments, "--device", "cpu", *flags)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("flags", [(), ("--overwrite",), ("--skip_existing",), ("--overwrite", "--continue_on_error")])
def test_scans_are_never_written_onto(flags: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder / "scans")
    assert run_predict(folder, *flags, out=folder / "scans") == 2
    assert "no flag replaces those" in capsys.readouterr().err
    assert contents(folder / "scans") == before


@posix
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_scans_are_found_behind_links(link: object, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder / "scans")
    (folder / "out").mkdir()
    link(folder / "scans" / "b.nii.gz", folder / "out" / "b.nii.gz")
    assert run_predict(folder, "--overwrite") == 2
    assert "b.nii.gz would be written onto" in capsys.readouterr().err
    (folder / "alias").symlink_to(folder / "scans")
    assert run_predict(folder, "--overwrite", out=folder / "alias" / ".." / "scans") == 2
    assert contents(folder / "scans") == before


def test_a_scan_with_the_name_of_an_unfinished_file_is_not_written_onto(folder: Path) -> None:
    (folder / "scans" / "a.nii.gz").rename(folder / "scans" / "partial_x.nii.gz")
    (folder / "scans" / "b.nii.gz").rename(folder / "more_x.nii.gz")
    write_ball(folder / "other" / "x.nii.gz")
    flags = ["--scans", str(folder / "scans"), str(folder / "other"), "--overwrite"]
    assert run_predict(folder, *flags, out=folder / "scans") == 2


@pytest.mark.parametrize("kind", ["source", "mask"])
def test_the_files_that_the_data_were_prepared_from_are_not_written_onto(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = folder / "mine" / "a.nii.gz"
    write_image(mine, write_ball(folder / "x.nii.gz").astype(np.uint8), Geometry())  # even one that was written here
    write_volume(folder / "gone" / "data" / "a.h5", Volume("a", np.ones((3, 4, 5), np.float32), **{kind: str(mine)}))
    before = mine.read_bytes()
    assert run_predict(folder, "--overwrite", out=folder / "mine") == 2
    assert "no flag replaces those" in capsys.readouterr().err
    assert mine.read_bytes() == before


def test_only_what_was_written_here_is_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = folder / "masks"
    write_ball(masks / "b.nii.gz")
    before = contents(masks)
    assert run_predict(folder, "--overwrite", out=masks) == 2
    assert "not written by this program" in capsys.readouterr().err
    assert contents(masks) == before
    assert run_predict(folder) == 0
    assert run_predict(folder) == 2
    assert run_predict(folder, "--overwrite") == 0
    edited = sitk.ReadImage(str(folder / "out" / "a.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(sitk.GetArrayFromImage(edited)), str(folder / "out" / "a.nii.gz"))
    assert run_predict(folder, "--overwrite") == 2, "a label that was corrected by hand is the user's"


def test_two_scans_never_share_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ball(folder / "scans" / "a_uncertainty.nii.gz")
    assert run_predict(folder, "--uncertainty") == 2
    assert "a and a_uncertainty would both be written to a_uncertainty.nii.gz" in capsys.readouterr().err
    assert not (folder / "out").exists()
    assert run_predict(folder) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: folder / "scans" / "a.nii.gz",
        lambda folder: folder / "scans" / "a.nii.gz" / "below",
        lambda folder: folder / ("x" * 300),
        lambda folder: Path("/proc/nothing"),
    ],
)
def test_an_impossible_folder_is_refused_before_anything_is_computed(
    make: object, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prediction, "check_scans", None)
    assert run_predict(folder, out=make(folder)) == 2
    assert "--out" in capsys.readouterr().err


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="longer than a file's name can be"):
        check_outputs({"x" * 247: [tmp_path / f"{'x' * 247}.nii.gz"]}, "--out")
    assert list(tmp_path.iterdir()) == []


def spoil(path: Path) -> None:
    """Cut off the data of a scan; its header stays readable."""
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), path)


def test_all_scans_are_checked_before_the_first_is_predicted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "bc":
        spoil(folder / "scans" / f"{name}.nii.gz")
    assert run_predict(folder) == 2
    error = capsys.readouterr().err
    assert "2 scans cannot be used, nothing was written (--continue_on_error skips them)" in error
    assert "b.nii.gz" in error and "c.nii.gz" in error
    assert not (folder / "out").exists()


def test_failing_scans_are_skipped_when_asked_and_listed_at_the_end(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder / "scans" / "b.nii.gz")
    assert run_predict(folder, "--continue_on_error") == 1
    assert sorted(contents(folder / "out")) == ["a.nii.gz", "c.nii.gz", "expected_dice.csv"]
    error = capsys.readouterr().err
    assert "written: 2 scans, skipped: 1" in error and "  b: " in error


def test_a_scan_that_breaks_midway_leaves_what_was_written_and_the_same_command_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(path: Path, *arguments: object) -> None:
        if path.name == "b.nii.gz":
            raise InputError("the scan is gone")
        write_image(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(prediction, "write_image", broken)
        assert run_predict(folder, "--uncertainty") == 1
        error = capsys.readouterr().err
        assert "written before it, completely: 1 scan" in error and "--skip_existing goes on" in error
    before = (folder / "out" / "a.nii.gz").stat().st_mtime_ns
    assert run_predict(folder, "--uncertainty") == 2
    assert run_predict(folder, "--uncertainty", "--skip_existing") == 0
    assert len(contents(folder / "out")) == 7
    assert [row.split(",")[0] for row in (folder / "out" / "expected_dice.csv").read_text().split()[1:]] == [*"abc"]
    assert (folder / "out" / "a.nii.gz").stat().st_mtime_ns == before
    assert run_predict(folder, "--uncertainty", "--skip_existing") == 0
    assert "all files are in" in capsys.readouterr().out
