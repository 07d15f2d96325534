"""Medical image formats, read with SimpleITK into arrays (W, H, D) with axes x, y, z."""

from __future__ import annotations

import contextlib
import locale
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Geometry, Grid
from semisam_o1.data.preparation import nifti

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
SEGMENTATION = ".seg.nrrd"  # of 3D Slicer's segmentations, which are NRRD files
MIN_SPACING, MAX_SPACING = 0.005, 100.0  # mm


def stem(path: Path) -> str | None:
    """Return the file's name without the ending of its format, None where the format is not read here."""
    suffix = next((suffix for suffix in (SEGMENTATION, *SUFFIXES) if path.name.lower().endswith(suffix)), None)
    return path.name[: -len(suffix)] if suffix else None


def format_fault(path: Path) -> str:
    """Return a sentence on why a file whose name has no ending of SUFFIXES is not read."""
    if path.is_file() and is_dicom(path):
        return f"{path} is one file of a DICOM series; give the folder that holds the whole series"
    return f"{path} is not in a format read here; convert it to one of {', '.join(SUFFIXES)}"


def is_dicom_folder(path: Path) -> bool:
    """Return whether a folder holds DICOM files."""
    return path.is_dir() and any(file.is_file() and is_dicom(file) for file in path.iterdir())


def is_dicom(path: Path) -> bool:
    """Return whether a file holds (part of) a DICOM image; the index of an export (DICOMDIR) holds none."""
    if path.name.upper() == "DICOMDIR":
        return False
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
    return False


def read_image(path: Path, channel: int | None = None) -> tuple[np.ndarray, Geometry]:
    """Read a NIfTI, NRRD or MetaImage file, or a folder that holds one DICOM series.

    Args:
        channel: of a file with several (4-D, or several numbers per voxel); None: there must be only one.

    Returns:
        The voxels (W, H, D), axes x, y, z, in the type of the file, and their geometry.

    Raises:
        InputError: if the file is missing, unreadable, cut off, or not 3-D.
    """
    if path.is_dir():
        image = _read_series(path)
    else:
        reader, _ = open_header(path, channel)
        if nifti.is_nifti(path) and (header := nifti.read_header(path)) is not None:
            nifti.check_voxels(path, header)
        with explained(path):
            image = reader.Execute()
    geometry = grid_of(image, path).geometry
    array = sitk.GetArrayFromImage(image)  # (…, z, y, x), or (z, y, x, …) with several numbers per voxel
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    channels = array.reshape(-1, *array.shape[-3:])
    return channels[channel or 0 if len(channels) > 1 else 0].transpose(2, 1, 0), geometry


@contextlib.contextmanager
def own_locale() -> Iterator[None]:
    """Restore the process's locale after GDCM, which sets it to C: files would then be read as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@own_locale()
def _read_series(folder: Path) -> sitk.Image:
    """Read the one DICOM series of a folder, slices sorted by position."""
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)) if is_dicom_folder(folder) else ()
    files = {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in series}
    if len(series) != 1:
        sizes = ", ".join(f"{len(names)} files of {uid}" for uid, names in files.items())
        raise InputError(
            f"{folder} must hold one DICOM series, it holds {sizes or 'none'}; give every series a folder of its own"
        )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files[series[0]])
    reader.MetaDataDictionaryArrayUpdateOn()
    with explained(folder):
        image = reader.Execute()
    _check_slices(reader, len(files[series[0]]), folder)
    return image


def _check_slices(reader: sitk.ImageSeriesReader, count: int, folder: Path) -> None:
    """Refuse a series with a gap: ITK would close it, and all slices behind it would have wrong positions."""
    try:
        position = np.array([reader.GetMetaData(i, "0020|0032").split("\\") for i in range(count)], float)
        across, down = np.array(reader.GetMetaData(0, "0020|0037").split("\\"), float).reshape(2, 3)
    except (RuntimeError, ValueError):  # the tags are missing: one file with all slices, for example
        return
    steps = np.diff(position @ np.cross(across, down))
    if len(steps) and np.abs(steps - np.median(steps)).max() > 0.05 * abs(np.median(steps)):
        i = int(np.abs(steps - np.median(steps)).argmax())
        raise InputError(
            f"{folder}: slices are missing or unevenly spaced ({abs(steps[i]):.2f} mm between number {i + 1} and "
            f"{i + 2}, {abs(np.median(steps)):.2f} mm elsewhere); export the whole series again"
        )


def open_header(path: Path, channel: int | None = None) -> tuple[sitk.ImageFileReader, Grid]:
    """Return a reader that has read only the header of an image file, and the grid of the image.

    Raises:
        InputError: if it is not a 3-D image that has this channel.
    """
    if stem(path) is None:
        raise InputError(format_fault(path))
    if not path.is_file():
        raise InputError(f"{path} is missing")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with explained(path):
        reader.ReadImageInformation()
    size, kind = reader.GetSize(), sitk.GetPixelIDValueAsString(reader.GetPixelID())
    channels = math.prod(size[3:]) * reader.GetNumberOfComponents()
    if len(size) < 3:
        raise InputError(f"{path} must be a 3-D image, its size is {times(size)}; write one 3-D file of it")
    if 0 in size:
        raise InputError(f"{path} holds no voxel, its size is {times(size)}; export it again")
    if channel is None and channels > 1:
        raise InputError(
            f"{path} must be one 3-D image with one number per voxel, its size is {times(size)} of {kind}; write one "
            "channel of it as a file, or choose a channel"
        )
    if channel is not None and channel >= channels > 1:
        raise InputError(f"{path} has {channels} channels, counted from 0; channel {channel} is not among them")
    if nifti.is_nifti(path) and (header := nifti.read_header(path)) is not None:
        nifti.check_spacing(path, header)
    return reader, grid_of(reader, path)


def grid_of(reader: sitk.ImageFileReader | sitk.Image, path: Path) -> Grid:
    """Return the grid of an image or of a header; raises InputError if its position or spacing cannot be real."""
    count = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (count, count))[:3, :3]
    spacing, origin = tuple(reader.GetSpacing()[:3]), tuple(reader.GetOrigin()[:3])
    if not np.isfinite((*spacing, *origin, *direction.ravel())).all() or min(spacing) <= 0:
        raise InputError(
            f"{path} has the spacing {spacing} and the origin {origin}; both must be finite and the spacing positive, "
            "so export it again"
        )
    if min(spacing) < MIN_SPACING or max(spacing) > MAX_SPACING:
        raise InputError(
            f"{path} has a spacing of {times(f'{value:g}' for value in spacing)} mm, which no scan has; correct its "
            f"header ({MIN_SPACING:g} to {MAX_SPACING:g} mm are read)"
        )
    return Grid(reader.GetSize()[:3], Geometry(spacing, origin, tuple(direction.ravel().tolist()), known=True))


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise errors of ITK as InputError, with their reason on one line."""
    try:
        yield
    except RuntimeError as error:
        cause = " ".join(str(error).split("ERROR: ")[-1].split())
        raise InputError(f"{path} cannot be read as an image ({cause}); copy or export it again") from None


def times(numbers: Iterable[object]) -> str:
    return " × ".join(map(str, numbers))
