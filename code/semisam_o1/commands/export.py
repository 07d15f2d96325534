"""Image files that lie exactly over the scan they came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from semisam_o1.data.dataset.volumes import Geometry
from semisam_o1.data.preparation.formats import SUFFIXES, stem

# Formats that keep voxels in a second file are written as their one-file form.
ONE_FILE = {".nhdr": ".nrrd", ".mhd": ".mha"}


def write_image(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write one volume as NIfTI, NRRD or MetaImage, whole or not at all.

    Args:
        path: its ending names the format; its folder is made where it is missing.
        array: (W, H, D), axes x, y, z; the type is kept (uint8 for labels, float32 for images).
        geometry: spacing (mm), origin (mm) and direction of the scan.

    Raises:
        ValueError: if the array is not 3-D.
    """
    if array.ndim != 3:
        raise ValueError(f"an image file needs an array (W, H, D), not one of shape {array.shape}")
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))  # SimpleITK's arrays are (z, y, x)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial_{path.name}")  # the format is chosen by the ending, so that one stays
    try:
        sitk.WriteImage(image, str(partial), useCompression=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def ending_like(source: str | Path | None) -> str:
    """Return the ending of the format that ``source`` is in: NIfTI for DICOM and where it is not known."""
    name = "" if source is None else str(source).lower()
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), ".nii.gz")
    return ONE_FILE.get(suffix, suffix)


def export_path(folder: Path, name: str, source: str | Path | None, kind: str = "") -> Path:
    """Return where the file of a scan goes; ``kind`` tells several files of one scan apart."""
    return folder / f"{stem(Path(name)) or name}{kind and '_'}{kind}{ending_like(source)}"
