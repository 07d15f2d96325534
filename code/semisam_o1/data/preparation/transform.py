"""One scan turned into a prepared volume: cropped, reoriented, resampled, normalized."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.data.preparation.grid import cropped, reoriented, resample, resample_label, resampled
from semisam_o1.data.preparation.intensity import apply_window, normalize, unchanged
from semisam_o1.data.preparation.settings import Preparation

BODY_BLUR = 2.0  # standard deviation of the Gaussian, in voxels


def prepare(scan: Volume, settings: Preparation, bounds: Sequence[int] | None = None) -> Volume:
    """Turn one scan into the volume that is trained on or predicted.

    Args:
        scan: as its file has it; image (W, H, D) of any real type. The label has no influence on the crop.
        bounds: of this scan, where ``settings.crop`` is 'bounds'; None: the scan is not cropped.

    Returns:
        The prepared volume, whose ``original`` is the grid of the scan.

    Raises:
        ValueError: if the values cannot be used, or nothing is left; says what is wrong.
    """
    target = cropped(scan.grid, _crop_box(scan, settings, bounds))
    if settings.orientation != "keep":
        target = reoriented(target, settings.orientation)
    if settings.spacing is not None and not np.allclose(settings.spacing, target.geometry.spacing, rtol=1e-4):
        target = resampled(target, settings.spacing)
    image, label = resample(unchanged(scan.image), scan.grid, target), scan.label
    if settings.intensity == "window":
        image = apply_window(image, settings.window)
    elif settings.intensity != "keep":
        image = normalize(image, nonzero=settings.intensity == "zscore-nonzero")
    if label is not None:
        nearest = settings.label_interpolation == "nearest"
        label = resample_label(remap(label, settings), scan.grid, target, nearest=nearest)
    return Volume(scan.name, image, label, target.geometry, scan.grid, scan.source)


def remap(label: np.ndarray, settings: Preparation) -> np.ndarray:
    """Return a label map (uint8) with its values replaced by the classes that the settings give them."""
    return np.array([settings.class_of(value) for value in range(256)], np.uint8)[label]


def body_box(image: np.ndarray) -> tuple[slice, ...]:
    """Return the bounding box of the largest bright object of a scan (W, H, D): the patient, not the air."""
    everything = tuple(slice(0, size) for size in image.shape)
    values = np.clip(image.astype(np.float32), *np.percentile(image, (0.5, 99.5)))
    if values.min() == values.max():
        return everything
    values = ndimage.gaussian_filter(values, BODY_BLUR)
    # Half way to Otsu's threshold: better some air than a part of the patient cut off.
    objects, count = ndimage.label(values > (values.min() + threshold_otsu(values)) / 2)
    return ndimage.find_objects(objects)[np.bincount(objects.ravel())[1:].argmax()] if count else everything


def _crop_box(scan: Volume, settings: Preparation, bounds: Sequence[int] | None) -> list[slice]:
    """Return the voxels to keep, with the margin, within the scan."""
    if settings.crop == "body":
        box = body_box(scan.image)
    else:
        bounds = bounds if settings.crop == "bounds" else settings.crop
        if bounds is None:
            return [slice(0, size) for size in scan.image.shape]
        box = [slice(int(bounds[i]), int(bounds[i + 1]) + 1) for i in (0, 2, 4)]
    result = []
    for part, size, spacing in zip(box, scan.image.shape, scan.geometry.spacing, strict=True):
        voxels = math.ceil(settings.margin / spacing)
        start, stop = max(part.start - voxels, 0), min(part.stop + voxels, size)
        if start >= stop:
            raise ValueError(f"lies outside of the bounds {' '.join(map(str, bounds))} that it is to be cropped to")
        result.append(slice(start, stop))
    return result
