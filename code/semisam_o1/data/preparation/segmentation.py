"""Segmentations of 3D Slicer (.seg.nrrd): named segments, in layers where they overlap, on a grid of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Grid
from semisam_o1.data.preparation.formats import explained, grid_of

KEY = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer)")
MAX_VALUE = 255  # of a label


@dataclass(frozen=True)
class Segment:
    """One segment of a file."""

    name: str
    value: int  # of its voxels
    layer: int  # that holds them


def read_segments(path: Path) -> tuple[Segment, ...]:
    """Return the segments that a file's header names, in their order; none where it is not a segmentation.

    Raises:
        InputError: if the header cannot be read.
    """
    if path.suffix.lower() not in (".nrrd", ".nhdr"):
        return ()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with explained(path):
        reader.ReadImageInformation()
    return _segments(reader, path)


def _segments(header: sitk.ImageFileReader | sitk.Image, path: Path) -> tuple[Segment, ...]:
    fields: dict[int, dict[str, str]] = {}
    for key in header.GetMetaDataKeys():
        if match := KEY.fullmatch(key):
            fields.setdefault(int(match[1]), {})[match[2]] = header.GetMetaData(key).strip()
    try:  # before version 4.11, every segment had a layer of its own, in which its voxels were 1
        segments = tuple(
            Segment(entry.get("Name") or f"segment {i}", int(entry.get("LabelValue", 1)), int(entry.get("Layer", i)))
            for i, entry in sorted(fields.items())
        )
        if any(segment.value < 1 or segment.layer < 0 for segment in segments):
            raise ValueError("values begin at 1, layers at 0")
        return segments
    except ValueError as error:
        raise InputError(f"{path} describes its segments wrongly ({error}); save it again in 3D Slicer") from None


def values_of_names(files: Iterable[Sequence[Segment]]) -> dict[str, int]:
    """Return one label value for every name of a segment in any of the files.

    It is the one that the first file with this name gives it, or the lowest free one where another name has that.

    Raises:
        InputError: if there are more names than values.
    """
    values: dict[str, int] = {}
    for segment in (segment for segments in files for segment in segments):
        if segment.name not in values:
            taken = {0, *values.values()}
            usable = segment.value not in taken and segment.value <= MAX_VALUE
            free = (value for value in range(1, MAX_VALUE + 1) if value not in taken)
            value = segment.value if usable else next(free, None)
            if value is None:
                raise InputError(f"the masks name more than {MAX_VALUE} segments; delete those that are not needed")
            values[segment.name] = value
    return values


def read_segmentation(path: Path, values: Mapping[str, int]) -> tuple[np.ndarray, Grid]:
    """Read a segmentation.

    Args:
        values: label value of every segment by its name.

    Returns:
        The label map (W, H, D), axes x, y, z, uint8, and its grid, which may be a part of the image's. Where segments
        overlap, the later one counts.

    Raises:
        InputError: if the file cannot be read or lacks a layer.
    """
    with explained(path):
        image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)  # (z, y, x), or (z, y, x, layers)
    layers = array[..., None] if image.GetNumberOfComponentsPerPixel() == 1 else array
    if image.GetDimension() != 3:
        raise InputError(f"{path} must be a 3-D segmentation; save it again in 3D Slicer")
    label = np.zeros(layers.shape[:3], np.uint8)
    for segment in _segments(image, path):
        if segment.layer >= layers.shape[3]:
            raise InputError(f"{path} lacks the layer of its segment {segment.name}; save it again in 3D Slicer")
        label[layers[..., segment.layer] == segment.value] = values[segment.name]
    return label.transpose(2, 1, 0), grid_of(image, path)
