"""What ITK does not tell of NIfTI files: two positions, no position, NaN, and files that are no NIfTI any more."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from image_files import scan
from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Grid
from semisam_o1.data.preparation import nifti
from semisam_o1.data.preparation.formats import read_image

TURN = np.array([[0.0, -2.0, 0.0, 5.0], [1.0, 0.0, 0.0, -6.0], [0.0, 0.0, 3.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


def save(path: Path, qform: np.ndarray | None, sform: np.ndarray | None, kind: type = nib.Nifti1Image) -> Path:
    image = kind(scan(0), TURN)
    image.set_qform(qform, 1 if qform is not None else 0)
    image.set_sform(sform, 2 if sform is not None else 0)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats_written_from_nifti_are_read(tmp_path: Path, suffix: str) -> None:
    image = sitk.ReadImage(str(save(tmp_path / "a.nii.gz", TURN, TURN)))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"), useCompression=True)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}")[0], scan(0))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_both_forms_are_those_that_nibabel_reads(tmp_path: Path, kind: type, ending: str) -> None:
    moved = TURN.copy()
    moved[:3, :3] = np.diag([-2.0, 1.0, 3.0])
    image = nib.load(save(tmp_path / f"a{ending}", TURN, moved, kind))
    found = nifti.forms(nifti.read_header(tmp_path / f"a{ending}"))
    np.testing.assert_allclose(nifti.TO_ITK @ found["qform"], image.get_qform(), atol=1e-5)
    np.testing.assert_allclose(nifti.TO_ITK @ found["sform"], image.get_sform(), atol=1e-5)
    geometries = nifti.geometries(tmp_path / f"a{ending}")
    for geometry, affine in zip(geometries, found.values(), strict=True):
        np.testing.assert_allclose(Grid((1, 1, 1), geometry).affine, affine, atol=1e-5)


def test_two_positions_and_none_are_warned_of(tmp_path: Path) -> None:
    moved = TURN.copy()
    moved[0, 3] += 50
    assert nifti.position_warning(save(tmp_path / "same.nii", TURN, TURN)) is None
    assert nifti.position_warning(save(tmp_path / "one.nii", None, TURN)) is None
    assert "up to 50 mm apart" in nifti.position_warning(save(tmp_path / "two.nii", TURN, moved))
    assert "states no position" in nifti.position_warning(save(tmp_path / "none.nii", None, None))
    assert nifti.position_warning(tmp_path / "missing.nii") is None
    (tmp_path / "text.nii").write_text("no header")
    assert nifti.position_warning(tmp_path / "text.nii") is None


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("forms", ["both", "neither", "qform"])
def test_a_label_takes_over_both_forms_of_its_scan(tmp_path: Path, ending: str, forms: str) -> None:
    moved = TURN.copy()
    moved[0, 3] += 50
    source = save(
        tmp_path / "a.nii.gz", *{"both": (TURN, moved), "neither": (None, None), "qform": (TURN, None)}[forms]
    )
    image, target = sitk.ReadImage(str(source)), tmp_path / f"label{ending}"
    label = sitk.Cast(image > 200, sitk.sitkUInt8)
    sitk.WriteImage(label, str(target))
    nifti.copy_forms(source, target)
    ours, theirs = sitk.ReadImage(str(target)), nib.load(target)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(label))
    np.testing.assert_allclose(theirs.affine, nib.load(source).affine, atol=1e-5)
    np.testing.assert_allclose(ours.GetOrigin(), image.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(ours.GetDirection(), image.GetDirection(), atol=1e-5)


def test_forms_of_another_grid_are_not_taken_over(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii", TURN, TURN)
    sitk.WriteImage(sitk.Image(3, 4, 5, sitk.sitkUInt8), str(tmp_path / "b.nii"))
    before = (tmp_path / "b.nii").read_bytes()
    nifti.copy_forms(source, tmp_path / "b.nii")
    nifti.copy_forms(tmp_path / "missing.nii", tmp_path / "b.nii")
    nifti.copy_forms(tmp_path / "a.nrrd", tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes() == before


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("order", "<>")
def test_values_that_itk_would_silently_make_0_are_refused(tmp_path: Path, kind: type, order: str) -> None:
    values = scan(0).astype(kind)
    values[1, 2, 3], values[4, 5, 6] = np.nan, np.inf
    header = nib.Nifti1Header(endianness=order)
    nib.save(nib.Nifti1Image(values, np.eye(4), header), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz holds 2 values that are not finite"):
        read_image(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(("stated", "reason"), [(0.0, "spacing of 1 × 0 × 1"), (5000.0, "5000"), (1e-4, "0.0001")])
def test_spacings_that_no_scan_has_are_refused(tmp_path: Path, stated: float, reason: str) -> None:
    path = save(tmp_path / "a.nii", None, None)
    content = bytearray(path.read_bytes())
    content[80:92] = np.array([1, stated, 1], "<f4").tobytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_image(path)
