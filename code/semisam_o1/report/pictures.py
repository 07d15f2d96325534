"""Slices of a scan for the page: one of each plane, and all axial ones within a number of bytes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.data.preparation.grid import reoriented, resample
from semisam_o1.drawing.outlines import (
    CLASS_COLORS,
    TOLERANCE,
    Contours,
    gray_limits,
    gray_values,
    largest_slice,
    polygons,
    svg_paths,
)

ORIENTATION = "LPS"  # radiological display: the patient's right is on the left, front and head are on top
# The axis through the slices, and the patient's sides on the left, right, top and bottom.
PLANES = {"axial": (2, "RLAP"), "coronal": (1, "RLSI"), "sagittal": (0, "APSI")}
STEPPED = "axial"  # the plane whose slices are all in the page
QUALITY = 80  # of JPEG, up to 100
MIN_SIDE = 24  # pixels; slices are made no smaller to fit
SAMPLED = 8  # every which slice is drawn first, to estimate how many bytes all of them take
ONE_SLICE = 0.04  # share of the bytes of a case for the slice of each other plane


class Outline(NamedTuple):
    """The outlines of one color in a slice."""

    kind: str  # of label: 'truth', 'first' or 'prediction'
    color: int  # position in CLASS_COLORS, from 1
    path: str  # SVG path data in half pixels


class Slice(NamedTuple):
    """One slice of a plane."""

    image: str  # JPEG as a data URI
    outlines: list[Outline]


class Plane(NamedTuple):
    """A direction of view with the slice that is shown first."""

    name: str
    index: int  # of that slice
    count: int  # of the slices that the volume has
    first: Slice
    pixel: tuple[float, float]  # mm
    size: tuple[float, float]  # width and height of a slice in mm
    sides: str  # letters on the left, right, top and bottom; empty where they are not known
    slices: list[Slice]  # all of them; none where only the first can be shown


def planes(volume: Volume, labels: Mapping[str, np.ndarray], max_bytes: int) -> list[Plane]:
    """Cut a volume where the first of its label maps (W, H, D) that has foreground is largest.

    Args:
        max_bytes: of all pictures together.
    """
    grid, known = volume.grid, volume.geometry.known
    target = reoriented(grid, ORIENTATION) if known else grid
    limits = gray_limits(volume.image)
    image = resample(volume.image, grid, target)
    labels = {kind: resample(label, grid, target, nearest=True) for kind, label in labels.items()}
    guide = next((label for label in labels.values() if label.any()), None)
    result = []
    for name, (normal, sides) in PLANES.items():
        across, down = (axis for axis in range(3) if axis != normal)
        index = target.size[normal] // 2 if guide is None else largest_slice(guide, normal)
        indices = range(target.size[normal]) if name == STEPPED else [index]
        share = max_bytes * (1 - 2 * ONE_SLICE if name == STEPPED else ONE_SLICE)
        cuts = {kind: _cuts(label, normal, indices) for kind, label in labels.items()}
        outlines = _outlined([{kind: cuts[kind][i] for kind in cuts} for i in range(len(indices))], share / 2)
        pixels = [np.uint8(gray_values(cut, limits) * 255) for cut in _cuts(image, normal, indices)]
        images = _encoded(pixels, share - _length(outlines))
        slices = list(map(Slice, images, outlines))
        first = slices[index] if name == STEPPED else slices.pop()
        pixel = (target.geometry.spacing[across], target.geometry.spacing[down])
        size = (target.size[across] * pixel[0], target.size[down] * pixel[1])
        count = target.size[normal]
        result.append(Plane(name, index, count, first, pixel, size, sides if known else "", slices))
    return result


def _cuts(array: np.ndarray, normal: int, indices: Sequence[int]) -> list[np.ndarray]:
    """Return slices (columns, rows) across an axis; z points up."""
    array = np.moveaxis(array, normal, 0)
    array = np.ascontiguousarray(array) if len(indices) > 1 else array  # one copy is faster than many strided ones
    return [array[index][:, :: 1 if normal == 2 else -1] for index in indices]


def _outlined(slices: Sequence[Mapping[str, np.ndarray]], max_bytes: float) -> list[list[Outline]]:
    """Return the outlines of label maps (columns, rows) by kind, made coarser until all together fit."""
    contours = [{kind: list(polygons(label)) for kind, label in labels.items()} for labels in slices]
    longest = max((label.shape[0] for label in slices[0].values()), default=0)

    def outlines(some: Sequence[Mapping[str, Contours]], tolerance: float) -> list[list[Outline]]:
        return [
            [
                Outline(kind, (c - 1) % len(CLASS_COLORS) + 1, path)
                for kind, found in labels.items()
                for c, path in svg_paths(found, tolerance).items()
            ]
            for labels in some
        ]

    tolerance, some = TOLERANCE, contours[::SAMPLED]
    while _length(outlines(some, tolerance)) * len(contours) > max_bytes * len(some) and tolerance <= longest:
        tolerance *= 2  # estimated on some of the slices
    while _length(found := outlines(contours, tolerance)) > max_bytes and tolerance <= longest:
        tolerance *= 2
    return found


def _length(outlines: Sequence[Sequence[Outline]]) -> int:
    """Return the approximate number of bytes that outlines take in the page."""
    return sum(len(outline.path) + 24 for slice_ in outlines for outline in slice_)


def _encoded(slices: Sequence[np.ndarray], max_bytes: float) -> list[str]:
    """Return slices (columns, rows) uint8 as JPEG in data URIs, made smaller until all together fit."""
    scale, some = _fitting(slices[::SAMPLED], 1.0, max_bytes * len(slices[::SAMPLED]) / len(slices))
    return some if len(some) == len(slices) else _fitting(slices, scale, max_bytes)[1]


def _fitting(slices: Sequence[np.ndarray], scale: float, max_bytes: float) -> tuple[float, list[str]]:
    """Return the largest tried scale, from a given one on, at which slices fit, and their data URIs."""
    while True:
        width, height = (max(1, round(side * scale)) for side in slices[0].shape)
        uris = [_jpeg(Image.fromarray(np.ascontiguousarray(pixels.T)), (width, height)) for pixels in slices]
        total = sum(map(len, uris))
        if total <= max_bytes or max(width, height) <= MIN_SIDE:
            return scale, uris
        scale *= min(0.9, math.sqrt(max_bytes / total))


def _jpeg(image: Image.Image, size: tuple[int, int]) -> str:
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BOX).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
