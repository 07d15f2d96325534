"""Exported NIfTI files lie over the scan they came from, for every reader."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from directions import DIRECTIONS
from semisam_o1.commands.export import write_image
from semisam_o1.core.atomic_io import WriteError
from semisam_o1.data.dataset.volumes import Geometry
from semisam_o1.data.preparation.formats import read_image

ARRAY = np.arange(3 * 4 * 5).reshape(3, 4, 5)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_affine_and_voxels_equal_those_of_the_source(tmp_path: Path, direction: np.ndarray) -> None:
    # The source is written by nibabel (RAS), which shares no code with the reader and writer under test.
    spacing, origin = np.array([0.6, 1.25, 3.0]), np.array([-20.5, 7.25, 100.0])
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ direction * spacing
    affine[:3, 3] = np.diag([-1, -1, 1]) @ origin
    nib.save(nib.Nifti1Image(ARRAY.astype(np.float32), affine), tmp_path / "scan.nii.gz")

    array, geometry = read_image(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(array, ARRAY)
    np.testing.assert_allclose(geometry.spacing, spacing, rtol=1e-6)
    np.testing.assert_allclose(geometry.origin, origin, rtol=1e-6)
    np.testing.assert_allclose(np.reshape(geometry.direction, (3, 3)), direction, atol=1e-6)

    write_image(tmp_path / "out" / "label.nii.gz", array.astype(np.uint8), geometry)
    exported = nib.load(tmp_path / "out" / "label.nii.gz")
    np.testing.assert_allclose(exported.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(exported.dataobj), ARRAY)
    label, scan = (sitk.ReadImage(str(tmp_path / name)) for name in ("out/label.nii.gz", "scan.nii.gz"))
    corner = (2, 3, 4)
    np.testing.assert_allclose(
        label.TransformIndexToPhysicalPoint(corner), scan.TransformIndexToPhysicalPoint(corner), atol=1e-4
    )
    assert label[corner] == scan[corner] == ARRAY[corner]


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_type_is_kept_and_nothing_else_is_left_in_the_folder(tmp_path: Path, kind: type) -> None:
    write_image(tmp_path / "a.nii.gz", ARRAY.astype(kind), Geometry())
    assert nib.load(tmp_path / "a.nii.gz").get_data_dtype() == kind
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_failure_keeps_the_old_file_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_image(path, ARRAY.astype(np.uint8), Geometry())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="axes"):
        write_image(path, np.zeros((3, 4)), Geometry())
    with pytest.raises((RuntimeError, TypeError)):
        write_image(path, ARRAY.astype(np.complex128).astype(object), Geometry())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file sizes")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_file_that_is_cut_off_is_an_error_and_the_old_one_stays(suffix: str, tmp_path: Path) -> None:
    import resource

    path = tmp_path / f"a{suffix}"
    write_image(path, ARRAY.astype(np.uint8), Geometry())
    before = path.read_bytes()
    noise = np.random.default_rng(0).random((32, 32, 32), np.float32)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(WriteError, match="cannot be written"):
            write_image(path, noise, Geometry())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
