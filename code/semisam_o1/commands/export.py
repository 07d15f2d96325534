"""Image files on the original grid of a scan."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from semisam_o1.commands.outputs import REMARK, REMARK_KEY
from semisam_o1.core.atomic_io import replacing
from semisam_o1.data.dataset.volumes import Geometry, Volume
from semisam_o1.data.preparation.formats import SUFFIXES, stem
from semisam_o1.data.preparation.grid import resample
from semisam_o1.data.preparation.nifti import copy_forms, is_nifti

MAX_REMARK = 79  # characters, which a NIfTI header holds
# Formats with a separate data file are written in their single-file form.
SINGLE_FILE = {".nhdr": ".nrrd", ".mhd": ".mha"}


def write_image(
    path: Path,
    array: np.ndarray,
    geometry: Geometry,
    source: str | Path | None = None,
    class_names: Mapping[int, str] | None = None,
) -> None:
    """Write one volume as NIfTI, NRRD or MetaImage, completely or not at all, with the remark that it was written here.

    Args:
        path: its suffix selects the format; a missing folder is created.
        array: (W, H, D), axes x, y, z; the type is kept (uint8 for labels, float32 for images).
        source: a file on the same grid; where both are NIfTI, its two forms of the position are taken over, so that the
            array lies on it for programs that read either.
        class_names: of a label map, for the file's remark.

    Raises:
        WriteError: if the file cannot be written.
    """
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))  # SimpleITK's arrays are (z, y, x)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    classes = ", ".join(f"{c} {name}" for c, name in (class_names or {}).items())
    remark = f"{REMARK}: {classes}" if classes else REMARK
    image.SetMetaData(REMARK_KEY, remark.encode("ascii", "replace")[:MAX_REMARK].decode("ascii"))
    with replacing(path, keep_suffix=True) as partial:
        try:
            sitk.WriteImage(image, str(partial), useCompression=True)
            if source is not None and is_nifti(partial):
                copy_forms(Path(source), partial)
            written = sitk.GetArrayFromImage(sitk.ReadImage(str(partial)))  # NIfTI is cut off without an error
        except RuntimeError as error:
            raise OSError(errno.EIO, f"{str(error).splitlines()[-1]}; the disk may be full") from error
        if not np.array_equal(written.transpose(2, 1, 0), array, equal_nan=True):
            raise OSError(errno.EIO, "the written file is incomplete; the disk may be full")


def export_path(folder: Path, name: str, source: str | Path | None, kind: str = "") -> Path:
    """Return the file for a scan and a kind of map, in the format of its source (NIfTI where that is DICOM or None)."""
    suffix = next((suffix for suffix in SUFFIXES if str(source or "").lower().endswith(suffix)), ".nii.gz")
    return folder / f"{stem(Path(name)) or name}{kind and '_'}{kind}{SINGLE_FILE.get(suffix, suffix)}"


def to_original_grid(probabilities: np.ndarray, volume: Volume) -> np.ndarray:
    """Resample class probabilities (C, w, h, d) of a prepared volume to the grid of the scan's file, (C, W, H, D).

    Voxels outside of the prepared volume are background with probability 1.
    """
    original = volume.original or volume.grid
    result = resample(probabilities.astype(np.float32, copy=False), volume.grid, original, outside=-1)
    outside = result[0] < 0
    result[:, outside] = 0
    result[0, outside] = 1
    return result
