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
from semisam_o1.core.memory import available_memory
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Grid, Volume
from semisam_o1.data.preparation.formats import open_header, read_image, times
from semisam_o1.data.preparation.grid import cropped, reoriented, resample, resample_label, resampled
from semisam_o1.data.preparation.masks import mask_fault, read_mask
from semisam_o1.data.preparation.nifti import position_warning
from semisam_o1.data.preparation.settings import Preparation
from semisam_o1.data.preparation.sources import PUBLIC_FILE, ScanFiles
from semisam_o1.data.preparation.sparse import drawn_slices, fill_between

PERCENTILES = (0.5, 99.5)
BYTES_PER_VOXEL = 12  # image and label as float32 and one more array
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
    volume = _read_public(scan, source_spacing) if scan.image.suffix == ".h5" else _read(scan, settings)
    try:
        return volume, prepare(volume, settings, scan.bounds)
    except ValueError as error:
        raise InputError(f"{scan.image} {error}; export it again or take it out") from None


def _read_public(scan: ScanFiles, source_spacing: Sequence[float] | None) -> Volume:
    volume = _PublicCopy(scan.image.parent.parent).load(scan.name)
    spaced = source_spacing is not None and not volume.geometry.known
    geometry = Geometry(tuple(source_spacing), known=True) if spaced else volume.geometry
    return replace(volume, geometry=geometry, source=str(scan.image.resolve()))


def _read(scan: ScanFiles, settings: Preparation) -> Volume:
    image, geometry = read_image(scan.image, settings.channel)
    label = None if scan.label is None else read_mask(scan, Grid(image.shape, geometry), settings.label_slices)
    mask = None if scan.label is None else str(scan.label.resolve())
    return Volume(scan.name, image, label, geometry, source=str(scan.image.resolve()), mask=mask)


def header_faults(scan: ScanFiles, channel: int | None) -> list[str]:
    """Return what the headers of one scan show to be wrong; HDF5 and DICOM are only checked with the voxels."""
    if scan.image.suffix == ".h5" or scan.image.is_dir():
        return []
    masks = [(scan.label, None)] if scan.label and scan.segments is None else []  # a segmentation has its own grid
    grids, faults = [], []
    for path, which in ((scan.image, channel), *masks):
        try:
            grids.append(open_header(path, which)[1])
        except InputError as error:
            faults.append(str(error))
    fault = mask_fault(scan, *grids) if len(grids) == 2 else None
    return [*faults, fault] if fault else faults


def header_warnings(scan: ScanFiles) -> list[str]:
    """Return sentences on what the header of a scan leaves open."""
    warning = position_warning(scan.image) if scan.image.is_file() else None
    return [warning] if warning else []


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
    needed = BYTES_PER_VOXEL * math.prod(target.size)
    if needed > available_memory():
        raise ValueError(f"would have {times(target.size)} voxels at this spacing, more than fit in memory")
    image, label = resample(checked(scan.image), scan.grid, target), scan.label
    if settings.intensity == "window":
        image = apply_window(image, settings.window)
    elif settings.intensity != "keep":
        image = normalize(image, nonzero=settings.intensity == "zscore-nonzero")
    if label is not None:
        nearest = settings.label_interpolation == "nearest"
        label = resample_label(filled(remap(label, settings), scan, settings), scan.grid, target, nearest=nearest)
    return Volume(scan.name, image, label, target.geometry, scan.grid, scan.source, scan.mask)


def remap(label: np.ndarray, settings: Preparation) -> np.ndarray:
    """Return a label map (uint8) with its values replaced by the classes that the settings give them."""
    return np.array([settings.class_of(value) for value in range(256)], np.uint8)[label]


def filled(label: np.ndarray, scan: Volume, settings: Preparation) -> np.ndarray:
    """Return a label map on the grid of a scan with the slices between drawn ones filled, if there are such."""
    drawn = drawn_slices(label, told=True) if (settings.label_slices or 1) > 1 else None
    return label if drawn is None else fill_between(label, drawn, scan.geometry.spacing)


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
        if np.isfinite(image).all():
            largest = f"{image.flat[np.abs(image).argmax()]:g}"
            raise ValueError(f"holds the value {largest} (a mark for missing data?), beyond the range of float32")
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
