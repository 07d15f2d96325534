"""Medical image formats, read with SimpleITK into arrays (W, H, D) with axes x, y, z."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .volumes import Geometry

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
PERCENTILES = (0.5, 99.5)


def stem(path: Path) -> str | None:
    """Return the file's name without the ending of its format, None where the format is not read here."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    return path.name[: -len(suffix)] if suffix else None


def read_image(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a NIfTI, NRRD or MetaImage file.

    Returns:
        The voxels (W, H, D), axes x, y, z, in the type of the file, and where they lie.

    Raises:
        InputError: if the file is missing, unreadable, cut off, or not 3-D with one number per voxel.
    """
    reader, geometry = open_header(path)
    _check_complete(reader, path)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read ({_cause(error)}); copy or export it again") from None
    array = sitk.GetArrayFromImage(image)  # (z, y, x), with a leading axis of 1 where the file is 4-D
    return array.reshape(array.shape[-3:]).transpose(2, 1, 0), geometry


def normalise(image: np.ndarray) -> np.ndarray:
    """Clip to the 0.5 and 99.5 percentiles, subtract the mean and divide by the standard deviation.

    Args:
        image: (W, H, D), any real type.

    Returns:
        float32 (W, H, D), mean 0 and standard deviation 1.

    Raises:
        ValueError: if a value is not finite, or nothing varies between the percentiles.
    """
    with np.errstate(over="ignore"):
        values = np.array(image, dtype=np.float32, order="C")
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not finite (NaN or infinite)")
    low, high = np.percentile(values, PERCENTILES)
    np.clip(values, low, high, out=values)
    mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    if low == high or deviation == 0:
        raise ValueError(f"is constant (all but the outermost voxels are {low:g})")
    values -= np.float32(mean)
    values /= np.float32(deviation)
    return values


def open_header(path: Path) -> tuple[sitk.ImageFileReader, Geometry]:
    """Read the header of an image file, and nothing else.

    Raises:
        InputError: if it is not one 3-D image with one number per voxel.
    """
    if stem(path) is None:
        raise InputError(f"{path} is not in a format read here; convert it to one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path} is missing")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an image ({_cause(error)}); export it again") from None
    size, kind = reader.GetSize(), sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if len(size) < 3 or math.prod(size[3:]) != 1:
        raise InputError(f"{path} must be one 3-D image, its size is {times(size)}; write one 3-D file of it")
    if reader.GetNumberOfComponents() != 1:
        raise InputError(f"{path} must hold one number per voxel, it holds {kind}; write one channel of it")
    return reader, _geometry_of(reader, path)


def _geometry_of(reader: sitk.ImageFileReader, path: Path) -> Geometry:
    count = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (count, count))[:3, :3]
    geometry = Geometry(
        tuple(reader.GetSpacing()[:3]),
        tuple(reader.GetOrigin()[:3]),
        tuple(direction.ravel().tolist()),
        known=True,
    )
    numbers = (*geometry.spacing, *geometry.origin, *geometry.direction)
    if not np.isfinite(numbers).all() or min(geometry.spacing) <= 0:
        raise InputError(
            f"{path} has the spacing {geometry.spacing} and the origin {geometry.origin}; both must be "
            "finite and the spacing positive, so export it again"
        )
    return geometry


def _check_complete(reader: sitk.ImageFileReader, path: Path) -> None:
    """Refuse a NIfTI file that was cut off: ITK would read its missing end as zeros.

    Raises:
        InputError: if the file holds fewer bytes than its header announces.
    """
    if not {"vox_offset", "bitpix"} <= set(reader.GetMetaDataKeys()):
        return  # the readers of the other formats check this themselves
    offset, bits = (float(reader.GetMetaData(key)) for key in ("vox_offset", "bitpix"))
    expected = int(offset) + math.prod(reader.GetSize()) * int(bits) // 8
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        if compressed:
            with gzip.open(path) as file:
                length = sum(len(block) for block in iter(lambda: file.read(1 << 20), b""))
        else:
            length = path.stat().st_size
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} is damaged or cut off ({error}); copy or download it again") from None
    if length < expected:
        raise InputError(f"{path} is cut off ({length} of {expected} bytes); copy or download it again")


def _cause(error: Exception) -> str:
    """Return the part of ITK's message that says what is wrong, on one line."""
    return " ".join(str(error).split("ERROR: ")[-1].split())


def times(numbers: Iterable[object]) -> str:
    return " × ".join(map(str, numbers))
