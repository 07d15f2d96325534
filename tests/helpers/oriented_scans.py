"""An ellipsoid in scans of several orientations, spacings and formats."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from directions import turned

DIRECTIONS = {
    "axial.nii.gz": np.eye(3),
    "sagittal.nrrd": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]),
    "oblique.mha": turned(25),
    "flipped.nii": np.diag([-1.0, 1, -1]),
    "tilted.mhd": turned(-12)[:, [2, 0, 1]] * [1, -1, 1],
}
SPACING = (0.8, 1.1, 2.3)


def blob(direction: np.ndarray, shift: float = 0.0) -> tuple[sitk.Image, sitk.Image]:
    """Return a scan and its label: an ellipsoid of the same size and place in the patient on any grid."""
    size = np.array([30, 26, 16])
    center = np.array([10.0, -20, 30])
    origin = center - direction @ ((size - 1) / 2 * SPACING)
    index = np.stack(np.indices(size), axis=-1)
    place = (index * SPACING) @ direction.T + origin - center - [shift, 2, -1]
    label = ((place / [7, 6, 8]) ** 2).sum(axis=-1) < 1
    image = 100.0 * label + np.random.default_rng(int(shift)).normal(0, 4, size)
    return tuple(_itk(array, origin, direction) for array in (image.astype(np.float32), label.astype(np.uint8)))


def _itk(array: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(SPACING)
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    return image


def center(label: sitk.Image) -> np.ndarray:
    """Return the center of mass in voxels (x, y, z)."""
    return np.argwhere(sitk.GetArrayFromImage(label).T > 0).mean(axis=0)


def same_grid(first: sitk.Image, second: sitk.Image) -> bool:
    return first.GetSize() == second.GetSize() and all(
        np.allclose(getattr(first, get)(), getattr(second, get)(), atol=1e-4)
        for get in ("GetSpacing", "GetOrigin", "GetDirection")
    )
