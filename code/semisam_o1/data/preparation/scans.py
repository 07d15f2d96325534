"""One scan: read as its source has it, and turned into a volume (cropped, reoriented, resampled, normalized)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Grid, Volume, as_label
from semisam_o1.data.preparation.formats import open_header, read_image, times
from semisam_o1.data.preparation.grid import cropped, reoriented, resample, resample_label, resampled
from semisam_o1.data.preparation.settings import Preparation
from semisam_o1.data.preparation.sources import PUBLIC_FILE, ScanFiles

PERCENTILES = (0.5, 99.5)
BODY_BLUR = 2.0  # standard deviation of the Gaussian, in voxels


class _PublicCopy(Dataset):
    """The layout of the public LA copy: ROOT/NAME/mri_norm2.h5."""

    def path(self, name: str) -> Path:
        return self.root / name / PUBLIC_FILE


def read_and_prepare(
    scan: ScanFiles, settings: Preparation, source_spacing: Sequence[float] | None = None
) -> tuple[Volume, Volume]:
    """Return one scan as its source has it (with the label's values as in the file), and prepared.

    Args:
        source_spacing: mm, of scans that do not state theirs; None: it stays unknown.

    Raises:
        InputError: if the image or the label cannot be used.
    """
    volume = _read_public(scan, source_spacing) if scan.image.suffix == ".h5" else _read(scan, settings.channel)
    try:
        return volume, prepare(volume, settings, scan.bounds)
    except ValueError as error:
        raise InputError(f"{scan.image} {error}; export it again or take it out") from None


def _read_public(scan: ScanFiles, source_spacing: Sequence[float] | None) -> Volume:
    volume = _PublicCopy(scan.image.parent.parent).load(scan.name)
    spaced = source_spacing is not None and not volume.geometry.known
    geometry = Geometry(tuple(source_spacing), known=True) if spaced else volume.geometry
    return replace(volume, geometry=geometry, source=str(scan.image.resolve()))


def _read(scan: ScanFiles, channel: int | None) -> Volume:
    (image, geometry), label = read_image(scan.image, channel), None
    if scan.label is not None:
        label, label_geometry = read_image(scan.label)
        if fault := _mismatch(scan, Grid(image.shape, geometry), Grid(label.shape, label_geometry)):
            raise InputError(fault)
        label = as_label(label, scan.label)
    mask = None if scan.label is None else str(scan.label.resolve())
    return Volume(scan.name, image, label, geometry, source=str(scan.image.resolve()), mask=mask)


def header_faults(scan: ScanFiles, channel: int | None) -> list[str]:
    """Return what the headers of one scan show to be wrong; HDF5 and DICOM are only checked with the voxels."""
    if scan.image.suffix == ".h5" or scan.image.is_dir():
        return []
    grids, faults = [], []
    for path, which in ((scan.image, channel), *([(scan.label, None)] if scan.label else [])):
        try:
            grids.append(open_header(path, which)[1])
        except InputError as error:
            faults.append(str(error))
    fault = _mismatch(scan, *grids) if len(grids) == 2 else None
    return [*faults, fault] if fault else faults


def _mismatch(scan: ScanFiles, image: Grid, label: Grid) -> str | None:
    """Return a sentence on how the grids of an image and its label differ, None where they do not."""
    if image.size != label.size:
        sizes = f"{scan.image} has the size {times(image.size)} and its label {scan.label} {times(label.size)}"
        return f"{sizes}; they must be the same"
    one, other = image.geometry, label.geometry
    near = np.isclose(one.spacing, other.spacing, rtol=1e-3, atol=0).all()
    if near and np.allclose(one.direction, other.direction, atol=1e-3):
        return None
    # Of the same size, but turned, flipped or scaled: voxel by voxel the label lies on something else.
    return (
        f"{scan.image} and its label {scan.label} differ in spacing or direction; resample the label "
        "onto the image, or give it the image's header if their voxels match"
    )


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
    image, label = resample(checked(scan.image), scan.grid, target), scan.label
    if settings.intensity == "window":
        image = apply_window(image, settings.window)
    elif settings.intensity != "keep":
        image = normalize(image, nonzero=settings.intensity == "zscore-nonzero")
    if label is not None:
        nearest = settings.label_interpolation == "nearest"
        label = resample_label(remap(label, settings), scan.grid, target, nearest=nearest)
    return Volume(scan.name, image, label, target.geometry, scan.grid, scan.source, scan.mask)


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


def checked(image: np.ndarray) -> np.ndarray:
    """Return the values as float32.

    Raises:
        ValueError: if a value is not finite, or all are the same.
    """
    with np.errstate(over="ignore"):
        values = np.array(image, dtype=np.float32, order="C")
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not finite (NaN or infinite)")
    if values.min() == values.max():
        raise ValueError(f"is constant (every voxel is {values.flat[0]:g})")
    return values


def normalize(image: np.ndarray, nonzero: bool = False) -> np.ndarray:
    """Clip to the 0.5 and 99.5 percentiles, subtract the mean and divide by the standard deviation.

    Args:
        image: (W, H, D), any real type, finite.
        nonzero: take percentiles, mean and deviation over the voxels that are not 0 (skull-stripped brains). All
            voxels are changed alike.

    Returns:
        float32 (W, H, D); over the voxels that count, mean 0 and standard deviation 1.

    Raises:
        ValueError: if nothing varies between the percentiles.
    """
    values = image.astype(np.float32)
    counted = values[values != 0] if nonzero else values
    low, high = np.percentile(counted, PERCENTILES) if counted.size else (0, 0)
    if low == high:
        raise ValueError(f"is constant (all but the outermost voxels are {low:g})")
    np.clip(values, low, high, out=values)
    counted = np.clip(counted, low, high) if nonzero else values
    mean, deviation = counted.mean(dtype=np.float64), counted.std(dtype=np.float64)
    values -= np.float32(mean)
    values /= np.float32(deviation)
    return values


def apply_window(image: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Clip a finite image (W, H, D) to a window (low, high) and scale it to −1 … 1, the same for every scan.

    Raises:
        ValueError: if nothing varies within the window.
    """
    low, high = window
    values = np.clip(image.astype(np.float32), np.float32(low), np.float32(high))
    if values.min() == values.max():
        raise ValueError(f"shows nothing within the window {low:g} to {high:g} (all voxels lie on one side of it)")
    return (values - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)
