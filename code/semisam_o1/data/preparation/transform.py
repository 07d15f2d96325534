"""One scan turned into a prepared volume: cropped, reoriented, resampled, normalized."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.data.preparation.grid import cropped, reoriented, resample, resample_label, resampled
from semisam_o1.data.preparation.settings import Preparation

PERCENTILES = (0.5, 99.5)
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
    values = np.clip(image.astype(np.float32), *np.percentile(image, PERCENTILES))
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


def normalize(image: np.ndarray, nonzero: bool = False) -> np.ndarray:
    """Clip to the 0.5 and 99.5 percentiles, subtract the mean and divide by the standard deviation.

    Args:
        image: (W, H, D), any real type.
        nonzero: take percentiles, mean and deviation over the voxels that are not 0 (skull-stripped brains). All
            voxels are changed alike.

    Returns:
        float32 (W, H, D); over the voxels that count, mean 0 and standard deviation 1.

    Raises:
        ValueError: if a value is not finite, or nothing varies between the percentiles.
    """
    values = _finite(image)
    counted = values[values != 0] if nonzero else values
    if not counted.size:
        raise ValueError("is constant (every voxel is 0)")
    low, high = np.percentile(counted, PERCENTILES)
    np.clip(values, low, high, out=values)
    counted = np.clip(counted, low, high) if nonzero else values
    mean, deviation = counted.mean(dtype=np.float64), counted.std(dtype=np.float64)
    if low == high or deviation == 0:
        raise ValueError(f"is constant (all but the outermost voxels are {low:g})")
    values -= np.float32(mean)
    values /= np.float32(deviation)
    return values


def apply_window(image: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Clip an image (W, H, D) to a window (low, high) and scale it to −1 … 1, the same for every scan.

    Raises:
        ValueError: if a value is not finite, or nothing varies within the window.
    """
    low, high = window
    values = np.clip(_finite(image), np.float32(low), np.float32(high))
    if values.min() == values.max():
        raise ValueError(f"shows nothing within the window {low:g} to {high:g} (all voxels lie on one side of it)")
    return (values - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)


def unchanged(image: np.ndarray) -> np.ndarray:
    """Return the values as float32.

    Raises:
        ValueError: if a value is not finite, or all are the same.
    """
    values = _finite(image)
    if values.min() == values.max():
        raise ValueError(f"is constant (every voxel is {values.flat[0]:g})")
    return values


def _finite(image: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = np.array(image, dtype=np.float32, order="C")
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not finite (NaN or infinite)")
    return values
