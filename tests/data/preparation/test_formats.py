"""Medical image formats, read with their geometry or refused with the reason."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from image_files import TURNED_DIRECTION, turned_scan, write_turned
from semisam_o1.core.errors import InputError
from semisam_o1.data.preparation.formats import SUFFIXES, read_image


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_read_with_axes_xyz_and_geometry(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_turned(path, turned_scan(0))
    array, geometry = read_image(path)
    np.testing.assert_array_equal(array, turned_scan(0))
    assert geometry.known
    np.testing.assert_allclose(geometry.spacing, (0.5, 1.0, 2.5))
    np.testing.assert_allclose(geometry.origin, (1.0, -2.0, 3.5))
    np.testing.assert_allclose(geometry.direction, TURNED_DIRECTION, atol=1e-6)


def test_file_with_one_time_point_is_3d(tmp_path: Path) -> None:
    image = sitk.JoinSeries([sitk.GetImageFromArray(turned_scan(0).T)])
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    array, geometry = read_image(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(array, turned_scan(0))
    assert len(geometry.spacing) == 3
    assert len(geometry.direction) == 9


def unreadable_files(folder: Path) -> dict[str, str]:
    """Write files that cannot be used; return what the error must say of each."""
    rng = np.random.default_rng(0)
    big = rng.random((30, 30, 30)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(big), str(folder / "whole.nii.gz"))
    whole = (folder / "whole.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.nii").write_bytes(gzip.decompress(whole)[:5000])
    (folder / "short.nii.gz").write_bytes(gzip.compress(gzip.decompress(whole)[:5000]))
    (folder / "text.mha").write_text("hello")
    (folder / "image.png").write_bytes(b"")
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 2), np.float32), np.eye(4)), folder / "series.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((3, 4), np.float32), np.eye(4)), folder / "flat.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True), str(folder / "color.nrrd"))
    write_turned(folder / "detached.mhd", turned_scan(0))
    (folder / "detached.raw").unlink()
    return {
        "cut.nii.gz": "cut off", "cut.nii": "cut off", "short.nii.gz": "cut off",
        "text.mha": "cannot be read", "image.png": "format", "absent.nii": "missing",
        "series.nii.gz": "3 × 4 × 5 × 2", "flat.nii.gz": "3 × 4", "color.nrrd": "one number per voxel",
        "detached.mhd": "cannot be read",
    }  # fmt: skip


def test_unusable_files_are_refused_by_name_and_reason(tmp_path: Path) -> None:
    for name, reason in unreadable_files(tmp_path).items():
        with pytest.raises(InputError) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
