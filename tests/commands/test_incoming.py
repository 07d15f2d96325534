"""Scans are predicted on the grid of the network and come back to their own; what the run never saw is told."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import predict
from image_files import scan, write_dicom
from semisam_o1.commands import trained
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Geometry
from semisam_o1.data.preflight.inspection import VolumeInfo
from semisam_o1.runs.seen import SeenScans
from standing_in import SEEN, Threshold, write_ball, write_run


@pytest.fixture(autouse=True)
def threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "Predictor", Threshold)
    monkeypatch.setattr(Threshold, "shapes", [])


def run_predict(folder: Path, *flags: object) -> int:
    arguments = ["--exp", folder / "run", "--scans", folder / "scans", "--out", folder / "out", "--device", "cpu"]
    return run_command(predict.main, [str(part) for part in (*arguments, *flags)])


def dice(folder: Path, name: str, mask: np.ndarray) -> float:
    label = np.asarray(nibabel.load(folder / "out" / f"{name}.nii.gz").dataobj) > 0
    assert label.shape == mask.shape
    return 2 * (label & mask).sum() / (label.sum() + mask.sum())


@pytest.mark.parametrize("spacing", [0.5, 2.0, 4.0])
def test_a_scan_of_any_spacing_is_seen_at_that_of_the_run(
    spacing: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path)
    mask = write_ball(tmp_path / "scans" / "a.nii.gz", spacing)
    assert run_predict(tmp_path) == 0
    assert Threshold.shapes == [(36, 36, 36)], "36 mm at the run's 1 mm"
    assert dice(tmp_path, "a", mask) > 0.9
    printed = capsys.readouterr().out
    assert f"warning: a: its spacing of {spacing:g} × {spacing:g} × {spacing:g} mm is outside of the run's" in printed


def test_a_scan_within_the_spacings_of_the_run_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, SEEN | {"spacing": [[0.9, 1.5, 2.0]] * 3, "size": [[10, 40]] * 3})
    write_ball(tmp_path / "scans" / "a.nii.gz", 2.0)
    assert run_predict(tmp_path) == 0
    assert Threshold.shapes == [(18, 18, 18)]
    assert "warning" not in capsys.readouterr().out


def test_a_run_that_records_no_spacing_predicts_as_before_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, scans=None)
    write_ball(tmp_path / "scans" / "a.nii.gz", 2.0)
    assert run_predict(tmp_path) == 0
    assert Threshold.shapes == [(18, 18, 18)]
    assert "trained on is not recorded, so scans keep their own" in capsys.readouterr().out


def test_a_label_lies_on_both_positions_of_its_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    path = tmp_path / "scans" / "a.nii.gz"
    write_ball(path)
    image = nibabel.load(path)
    moved = image.affine.copy()
    moved[0, 3] += 50
    image = nibabel.Nifti1Image(np.asarray(image.dataobj), None)
    image.set_qform(moved, 1)
    image.set_sform(np.diag([1.0, 1, 1, 1]), 2)
    nibabel.save(image, path)
    assert run_predict(tmp_path) == 0
    assert "states two positions (qform and sform)" in capsys.readouterr().out
    label = tmp_path / "out" / "a.nii.gz"
    by_itk = [sitk.ReadImage(str(file)) for file in (path, label)]
    np.testing.assert_allclose(nibabel.load(label).affine, nibabel.load(path).affine, atol=1e-5)
    np.testing.assert_allclose(nibabel.load(label).get_qform(), moved, atol=1e-5)
    np.testing.assert_allclose(by_itk[0].GetOrigin(), by_itk[1].GetOrigin(), atol=1e-5)


@pytest.mark.parametrize("spacing", [5000.0, 0.0001])
def test_a_spacing_that_no_scan_has_is_a_fault(
    spacing: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path)
    write_ball(tmp_path / "scans" / "a.nii.gz", spacing, extent=36 * spacing)
    assert run_predict(tmp_path) == 2
    assert "which no scan has; correct its header" in (error := capsys.readouterr().err) and "a.nii.gz" in error
    assert not (tmp_path / "out").exists()


def test_a_scan_too_large_at_the_spacing_of_the_network_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path)
    write_ball(tmp_path / "scans" / "a.nii.gz", 90.0, extent=90 * 60)
    assert run_predict(tmp_path) == 2
    assert "voxels at the 1 × 1 × 1 mm of the network, more than fit into memory" in capsys.readouterr().err


def test_scans_unlike_those_of_the_run_are_warned_of_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, SEEN | {"size": [[10, 15]] * 3, "intensity": [0.0, 0.1], "orientations": ["LPS"]})
    write_ball(tmp_path / "scans" / "large.nii.gz")
    assert run_predict(tmp_path) == 0
    (warning,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("warning"))
    assert warning.startswith("warning: large: its size of 36 × 36 × 36 voxels is far from the run's 10–15 × 10–15")
    assert "exceed the run's 0 to 0.1" in warning
    assert "its axes point towards RAS, those of the run towards LPS" in warning


def test_ranges_are_those_of_the_training_scans_and_come_back_from_json() -> None:
    spacings, shapes = [(1, 2, 3), (1, 1, 5), (1, 4, 4)], [(9, 8, 7), (10, 5, 7), (9, 9, 7)]
    scans = [
        VolumeInfo("a", shape, "", None, Geometry(tuple(map(float, spacing)), known=True), (-1.0, float(sum(spacing))))
        for spacing, shape in zip(spacings, shapes, strict=True)
    ]
    seen = SeenScans.of(scans)
    assert seen.spacing == ((1, 1, 1), (1, 2, 4), (3, 4, 5))
    assert seen.size == ((9, 10), (5, 9), (7, 7))
    assert seen.intensity == (-1, 9) and seen.orientations == ("LPS",)
    assert SeenScans.from_json(json.loads(json.dumps(seen.to_json())), "args.json") == seen
    assert seen.spacing_for((1, 3, 9)) == (1, 3, 4)
    unknown = SeenScans.of([VolumeInfo("a", (9, 8, 7), "", None, Geometry())])
    assert unknown.spacing is None and unknown.spacing_for((1, 3, 9)) is None


@pytest.mark.parametrize("changed", [[], {}, {"spacing": "1"}, SEEN | {"spacing": [[1, 0, 1]] * 3}, SEEN | {"size": 3}])
def test_changed_ranges_are_a_fault_of_the_file(
    changed: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, changed)
    write_ball(tmp_path / "scans" / "a.nii.gz")
    assert run_predict(tmp_path) == 2
    assert "args.json: its entry 'scans' was changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": [1, 1]}, {"spacing": "fine"}, {"window": [0]}, {"intensity": "bright"}, {"channel": "x"},
        {"orientation": 5}, {"crop": "half"}, {"margin": "10"}, {"labels": {"a": 1}}, {"label_interpolation": "cubic"},
        None,
    ],
)  # fmt: skip
def test_wrong_entries_of_a_preparation(
    change: dict[str, object] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path)
    content = json.loads((run / "args.json").read_text())["preparation"]
    path = tmp_path / "preparation.json"
    path.write_text(json.dumps({} if change is None else content | change))
    write_ball(tmp_path / "scans" / "a.nii.gz")
    assert run_predict(tmp_path, "--preparation", path) == 2
    assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_label_on_its_own_grid_is_that_of_the_scan(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_ball(tmp_path / "scans" / "a.nii.gz", 0.75)
    assert run_predict(tmp_path) == 0
    one, other = (sitk.ReadImage(str(tmp_path / part / "a.nii.gz")) for part in ("scans", "out"))
    assert one.GetSize() == other.GetSize() and np.allclose(one.GetOrigin(), other.GetOrigin())


def test_dicom_files_beside_other_scans_and_single_ones_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path)
    write_dicom(tmp_path / "scans", scan(0))
    write_dicom(tmp_path / "scans" / "p1", scan(1), "1.2.3.9")
    assert run_predict(tmp_path) == 2
    assert "beside other scans (p1); move the DICOM files of each series" in capsys.readouterr().err
    single = next((tmp_path / "scans").glob("*.dcm"))
    assert run_predict(tmp_path, "--scans", single) == 2
    assert "is one file of a DICOM series; give the folder that holds the whole series" in capsys.readouterr().err
