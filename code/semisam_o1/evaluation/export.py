"""NIfTI files that lie exactly over the scan they came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..data.volumes import Geometry


def write_nifti(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write one volume as NIfTI, whole or not at all.

    Args:
        path: ends in ``.nii.gz`` (or ``.nii``); its folder is made where it is missing.
        array: (W, H, D), axes x, y, z; the type is kept (uint8 for labels, float32 for images).
        geometry: spacing (mm), origin (mm) and direction of the scan.

    Raises:
        ValueError: if the array is not 3-D.
    """
    if array.ndim != 3:
        raise ValueError(f"a NIfTI volume needs an array (W, H, D), not one of shape {array.shape}")
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
