"""Malformed scans to prepare: exit code 2, one sentence that names the file, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import prepare_data
from malformed import Spoil, cut, refused, text


def nifti(path: Path, shape: tuple[int, ...] = (8, 9, 10)) -> None:
    values = np.random.default_rng(3).integers(0, 99, shape[::-1]).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


def claim(path: Path) -> None:
    """Let a header claim 32000³ voxels."""
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32000] * 3, "<i2").tobytes()
    path.write_bytes(content)


SCANS: dict[str, Spoil] = {
    "empty": text(""),
    "text": text("a scan"),
    "half": cut(0.5),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "two dimensions": lambda path: nifti(path, (8, 9)),
    "constant": lambda path: sitk.WriteImage(sitk.Image(8, 9, 10, sitk.sitkInt16), str(path)),
    "a huge claim": claim,
}


@pytest.mark.parametrize("case", SCANS)
def test_scans_to_prepare(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a", "b", "c", "d"):
        nifti(images / f"{name}.nii")
    SCANS[case](images / "b.nii")
    error = refused(prepare_data.main, ["nifti", "--images", images, tmp_path / "out"], capsys)
    assert "b.nii" in error
    assert not (tmp_path / "out").exists()
