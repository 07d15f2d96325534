"""Three orthogonal slices of a case with the outlines of its labels, ready to be placed in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.data.preparation.grid import reoriented, resample
from semisam_o1.drawing.outlines import gray_values, largest_slice, svg_path

ORIENTATION = "LPS"  # radiological display: the patient's right is on the left, front and head are on top
PLANES = (  # name, axes across and down the picture, whether down is reversed, sides of the patient
    ("axial", (0, 1), False, "RLAP"),
    ("coronal", (0, 2), True, "RLSI"),
    ("sagittal", (1, 2), True, "APSI"),
)


@dataclass(frozen=True)
class Slice:
    """One slice."""

    name: str
    index: int
    image: str  # JPEG as a data URI
    width: float  # mm
    height: float
    outlines: dict[str, str]  # SVG path data in mm, by kind of label
    sides: str  # letters on the left, right, top and bottom; empty where they are not known


def slices(volume: Volume, labels: Mapping[str, np.ndarray]) -> list[Slice]:
    """Cut a volume where the first of its label maps (W, H, D) that has foreground is largest."""
    grid, known = volume.grid, volume.geometry.known
    target = reoriented(grid, ORIENTATION) if known else grid
    image = np.uint8(gray_values(resample(volume.image, grid, target)) * 255)
    labels = {kind: resample(label, grid, target, nearest=True) for kind, label in labels.items()}
    guide = next((label for label in labels.values() if label.any()), None)
    result = []
    for name, (across, down), reverse, sides in PLANES:
        normal = 3 - across - down
        index = target.size[normal] // 2 if guide is None else largest_slice(guide, normal)
        window = [slice(None)] * 3
        window[down], window[normal] = slice(None, None, -1 if reverse else 1), index
        pixel = (target.geometry.spacing[across], target.geometry.spacing[down])
        width, height = target.size[across] * pixel[0], target.size[down] * pixel[1]
        outlines = {kind: svg_path(label[tuple(window)], pixel) for kind, label in labels.items()}
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image[tuple(window)].T)).save(buffer, "JPEG", quality=85)
        uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
        result.append(Slice(name, index, uri, width, height, outlines, sides if known else ""))
    return result
