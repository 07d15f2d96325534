"""The mask of a scan: read onto the grid of its image, or refused where it lies elsewhere or is incomplete."""

from __future__ import annotations

import numpy as np

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Geometry, Grid, as_label
from semisam_o1.data.preparation import nifti
from semisam_o1.data.preparation.formats import read_image, times
from semisam_o1.data.preparation.grid import resample_label
from semisam_o1.data.preparation.segmentation import read_segmentation
from semisam_o1.data.preparation.sources import ScanFiles
from semisam_o1.data.preparation.sparse import drawn_slices

MAX_OFFSET = 0.25  # voxels along an axis between the origins of an image and its mask
MAX_OUTSIDE = 0.01  # share of a segmentation's voxels that may lie outside of the image


def read_mask(scan: ScanFiles, image: Grid, label_slices: int | None = None) -> np.ndarray:
    """Read the mask of a scan.

    Args:
        image: grid of the image.
        label_slices: the mask is drawn on every slice of this distance; None: it must be drawn on all of them.

    Returns:
        The label map (W, H, D), uint8, with the values of the file, or with those of ``scan.segments``.

    Raises:
        InputError: if the mask cannot be read, does not lie on the image, or lacks slices that nobody spoke of.
    """
    if scan.segments is not None:
        label = _onto_image(scan, *read_segmentation(scan.label, scan.segments), image)
    else:
        label, geometry = read_image(scan.label)
        if fault := mask_fault(scan, image, Grid(label.shape, geometry)):
            raise InputError(fault)
        label = as_label(label, scan.label)
    drawn = drawn_slices(label) if label_slices is None else drawn_slices(label, told=True)
    if drawn and label_slices is None:
        raise InputError(
            f"{scan.label} is drawn on one slice in {drawn.step} only; --label_slices {drawn.step} fills the slices "
            "between, --label_slices 1 takes it as it is"
        )
    if drawn and 1 < label_slices < drawn.step:
        raise InputError(
            f"{scan.label} is drawn on one slice in {drawn.step}; --label_slices must be {drawn.step}, it is "
            f"{label_slices}"
        )
    return label


def _onto_image(scan: ScanFiles, label: np.ndarray, grid: Grid, image: Grid) -> np.ndarray:
    """Bring a segmentation from its own grid to that of its image."""
    try:
        result = resample_label(label, grid, image)
    except ValueError as error:
        raise InputError(f"{scan.image} and its label {scan.label}: {error}; draw it on this image again") from None
    volumes = [
        np.count_nonzero(array) * float(np.prod(on.geometry.spacing)) for array, on in ((label, grid), (result, image))
    ]
    if volumes[1] < (1 - MAX_OUTSIDE) * volumes[0] and _reaches_out(label, grid, image):
        outside = 1 - volumes[1] / volumes[0]
        raise InputError(
            f"{scan.label}: {outside:.0%} of the segments lie outside of the image {scan.image}; is it of another scan?"
        )
    return result


def _reaches_out(label: np.ndarray, grid: Grid, image: Grid) -> bool:
    """Return whether foreground of a label (W, H, D) lies outside of an image, by more than rounding."""
    corners = np.argwhere(label > 0)
    places = corners @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    voxels = (places - image.affine[:3, 3]) @ np.linalg.inv(image.affine[:3, :3]).T
    return bool((voxels < -0.5 - MAX_OFFSET).any() or (voxels > np.array(image.size) - 0.5 + MAX_OFFSET).any())


def mask_fault(scan: ScanFiles, image: Grid, mask: Grid) -> str | None:
    """Return a sentence on how the grids of an image and its mask differ, None where they do not.

    Where the header of the image states two positions, the mask may lie at either.
    """
    if image.size != mask.size:
        sizes = f"{scan.image} has the size {times(image.size)} and its label {scan.label} {times(mask.size)}"
        return f"{sizes}; they must be the same"
    fault = _difference(image.geometry, mask.geometry)
    if fault is None or any(_difference(form, mask.geometry) is None for form in nifti.geometries(scan.image)):
        return None
    return (
        f"{scan.image} and its label {scan.label} {fault}; resample the label onto the image, or give it the image's "
        "header if their voxels match"
    )


def _difference(image: Geometry, mask: Geometry) -> str | None:
    """Return how the position of a mask of the same size differs; voxel by voxel it then lies on something else."""
    near = np.isclose(image.spacing, mask.spacing, rtol=1e-3, atol=0).all()
    if not near or not np.allclose(image.direction, mask.direction, atol=1e-3):
        return "differ in spacing or direction"
    offset = np.subtract(mask.origin, image.origin)
    voxels = np.reshape(image.direction, (3, 3)).T @ offset / image.spacing
    if np.abs(voxels).max() <= MAX_OFFSET:
        return None
    return f"lie {np.linalg.norm(offset):.4g} mm apart (their origins differ)"
