"""Three orthogonal slices of a case with the outlines of its labels, as SVG for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image
from skimage.measure import find_contours

from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.data.preparation.grid import reoriented, resample

VIEW = "LPS"  # shown as radiologists do: patient's right on the left, front and head on top
PLANES = (  # name, the axes across and down the picture, whether down is reversed, the sides of the patient
    ("axial", (0, 1), False, "RLAP"),
    ("coronal", (0, 2), True, "RLSI"),
    ("sagittal", (1, 2), True, "APSI"),
)


@dataclass(frozen=True)
class Plane:
    """One slice.

    Attributes:
        image: (across, down) as gray values 0 … 255.
        labels: by kind, of the same shape.
        size: of a pixel in mm across and down.
        sides: letters on the left, right, top and bottom; empty where they are not known.
    """

    name: str
    index: int
    image: np.ndarray
    labels: dict[str, np.ndarray]
    size: tuple[float, float]
    sides: str


def slices(volume: Volume, labels: Mapping[str, np.ndarray]) -> list[Plane]:
    """Cut a volume where its labels are largest.

    Args:
        labels: label maps (W, H, D) by kind; the first one with foreground chooses the slices.
    """
    grid = volume.grid
    target = reoriented(grid, VIEW) if grid.geometry.known else grid
    image = resample(volume.image, grid, target)
    turned = {kind: resample(label, grid, target, nearest=True) for kind, label in labels.items()}
    low, high = np.percentile(image, (1, 99))
    gray = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    guide = next((label > 0 for label in turned.values() if label.any()), None)
    result = []
    for name, (across, down), reverse, sides in PLANES:
        normal = 3 - across - down
        index = target.size[normal] // 2
        if guide is not None:
            index = int(guide.sum(axis=(across, down)).argmax())

        def cut(array: np.ndarray, normal: int = normal, index: int = index, reverse: bool = reverse) -> np.ndarray:
            plane = array.take(index, axis=normal)
            return plane[:, ::-1] if reverse else plane

        spacing = target.geometry.spacing
        result.append(
            Plane(name, index, cut(gray), {kind: cut(label) for kind, label in turned.items()},
                  (spacing[across], spacing[down]), sides if grid.geometry.known else "")
        )  # fmt: skip
    return result


def plane_svg(plane: Plane, title: str) -> str:
    """Return a slice as SVG: the picture, and a path of class KIND for each label's outlines."""
    width, height = (n * s for n, s in zip(plane.image.shape, plane.size, strict=True))
    parts = [
        f'<svg class="slice" viewBox="0 0 {width:.2f} {height:.2f}" role="img" aria-label="{escape(title)}">',
        f'<image href="{_data_uri(plane.image)}" width="{width:.2f}" height="{height:.2f}" '
        'preserveAspectRatio="none"/>',
    ]
    parts += [f'<path class="{kind}" d="{_outlines(label, plane.size)}"/>' for kind, label in plane.labels.items()]
    return "".join([*parts, "</svg>"])


def _outlines(label: np.ndarray, size: Sequence[float]) -> str:
    """Return the path around every class of a slice (across, down), in mm."""
    path = []
    padded = np.pad(label, 1)
    for value in np.unique(label[label > 0]):
        for line in find_contours((padded == value).astype(np.float32), 0.5):
            points = (line - 0.5) * size  # pixel (1, 1) of the padded slice covers 0 … 1
            path.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points[:-1]) + "Z")
    return "".join(path)


def _data_uri(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.T)).save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
