"""How a scan becomes a volume to train on: cropped, turned, resampled, its intensities made comparable.

The settings are kept beside the dataset and in every run's args.json, so that prediction treats new scans alike.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Grid, Volume
from semisam_o1.data.preparation.grid import cropped, is_orientation, reoriented, resample, resample_label, resampled
from semisam_o1.data.preparation.intensity import apply_window, normalize, unchanged

FILE_NAME = "preparation.json"
INTENSITIES = ("zscore", "zscore-nonzero", "window", "keep")
BODY_BLUR = 2.0  # voxels


@dataclass(frozen=True)
class Preparation:
    """Settings of ``prepare``.

    Attributes:
        orientation: three letters that the axes point towards, or 'keep'.
        spacing: mm per axis of the prepared volume, None for the scan's own.
        crop: 'body', 'bounds' (each scan has its own), six numbers (the bounds of every scan: first and last
            voxel along x, y, z as its file counts them, from 0), or None.
        margin: mm left around what ``crop`` names.
        intensity: 'zscore', 'zscore-nonzero' (over voxels that are not 0), 'window', or 'keep'.
        window: low and high of the window.
        labels: label value in the file → class; others stay, or become ``other_labels``.
        other_labels: None for as they are.
        label_interpolation: 'onehot' or 'nearest', where the grid changes.
        channel: of an image with several, None where it has one.
    """

    orientation: str = "RAS"
    spacing: tuple[float, float, float] | None = None
    crop: str | tuple[int, ...] | None = None
    margin: float = 10.0
    intensity: str = "zscore"
    window: tuple[float, float] | None = None
    labels: dict[int, int] = dataclasses.field(default_factory=dict)
    other_labels: int | None = None
    label_interpolation: str = "onehot"
    channel: int | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.orientation != "keep" and not is_orientation(self.orientation):
            faults.append(f"--orientation must name each axis once, such as RAS or LPS, it is {self.orientation}")
        if self.spacing is not None and not all(0 < value < math.inf for value in self.spacing):
            faults.append(f"--spacing must be positive, it is {' '.join(map(str, self.spacing))}")
        if not 0 <= self.margin < math.inf:
            faults.append(f"--margin must not be negative, it is {self.margin}")
        if self.window is not None and not -math.inf < self.window[0] < self.window[1] < math.inf:
            faults.append(f"--window must rise from low to high, it is {self.window[0]:g} {self.window[1]:g}")
        if self.channel is not None and self.channel < 0:
            faults.append(f"--channel counts from 0, it is {self.channel}")
        if faults:
            raise InputError("; ".join(faults))

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        values["labels"] = {str(key): value for key, value in self.labels.items()}
        return json.loads(json.dumps(values))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Preparation:
        """Take back what ``to_json`` gave.

        Raises:
            InputError: naming ``where`` the settings came from, if they make no sense.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            taken = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in known}
            taken["labels"] = {int(key): int(value) for key, value in values.get("labels", {}).items()}
            return cls(**taken)
        except (AttributeError, TypeError, ValueError, InputError) as error:
            raise InputError(f"{where} holds no settings of a preparation ({error}); prepare the scans again") from None


def read_preparation(root: Path) -> Preparation | None:
    """Return the settings that the volumes of a dataset folder were prepared with, None where they are not known."""
    path = root / FILE_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); prepare the scans again") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no settings of a preparation; prepare the scans again")
    return Preparation.from_json(values, str(path))


def parse_labels(text: str) -> tuple[dict[int, int], int | None]:
    """Read '3=1,4=2,other=0': label values and the classes that they become.

    Raises:
        InputError: if the text says something else.
    """
    labels: dict[int, int] = {}
    other = None
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,3}|other)\s*=\s*(\d{1,3})\s*", part)
        if not match or int(match[2]) > 255 or (match[1] != "other" and int(match[1]) > 255):
            raise InputError(f"--labels {text}: {part!r} must look like 3=1 (value=class, both up to 255) or other=0")
        if match[1] == "other":
            other = int(match[2])
        elif int(match[1]) in labels:
            raise InputError(f"--labels {text} says twice what becomes of {match[1]}")
        else:
            labels[int(match[1])] = int(match[2])
    return labels, other


def prepare(
    name: str,
    image: np.ndarray,
    label: np.ndarray | None,
    original: Grid,
    settings: Preparation,
    bounds: Sequence[int] | None = None,
    source: str | None = None,
) -> Volume:
    """Turn one scan into the volume that is trained on or predicted.

    Args:
        image: (W, H, D), any real type, on ``original``.
        label: (W, H, D) uint8 or None; never looked at to choose the crop.
        bounds: of this scan, where ``settings.crop`` is 'bounds'; None leaves it whole.
        source: the file, kept with the volume.

    Raises:
        ValueError: if the values cannot be used, or nothing is left; says what is wrong.
    """
    part = cropped(original, _crop_box(image, original, settings, bounds))
    turned = part if settings.orientation == "keep" else reoriented(part, settings.orientation)
    target = turned
    if settings.spacing is not None and not np.allclose(settings.spacing, turned.geometry.spacing, rtol=1e-4):
        target = resampled(turned, settings.spacing)
    values = resample(unchanged(image), original, target)
    if settings.intensity == "window":
        values = apply_window(values, settings.window)
    elif settings.intensity != "keep":
        values = normalize(values, nonzero=settings.intensity == "zscore-nonzero")
    if label is not None:
        label = remap(label, settings.labels, settings.other_labels)
        label = resample_label(label, original, target, nearest=settings.label_interpolation == "nearest")
    return Volume(name, values, label, target.geometry, original, source)


def remap(label: np.ndarray, labels: Mapping[int, int], other: int | None = None) -> np.ndarray:
    """Return a label map (uint8) with its values replaced; those not named stay, or become ``other`` (0 stays 0)."""
    table = np.arange(256, dtype=np.uint8)
    if other is not None:
        table[1:] = other
    for value, becomes in labels.items():
        table[value] = becomes
    return table[label]


def body_box(image: np.ndarray) -> list[slice]:
    """Return the bounding box of the largest bright object of a scan (W, H, D): the patient, not the air."""
    values = np.clip(image.astype(np.float32), *np.percentile(image, (0.5, 99.5)))
    if values.min() == values.max():
        return [slice(0, size) for size in image.shape]
    values = ndimage.gaussian_filter(values, BODY_BLUR)
    # Half way to Otsu's threshold: better some air than a part of the patient cut off.
    objects, count = ndimage.label(values > (values.min() + threshold_otsu(values)) / 2)
    if count == 0:
        return [slice(0, size) for size in image.shape]
    largest = int(np.bincount(objects.ravel())[1:].argmax())
    return list(ndimage.find_objects(objects)[largest])


def _crop_box(image: np.ndarray, grid: Grid, settings: Preparation, bounds: Sequence[int] | None) -> list[slice]:
    whole = [slice(0, size) for size in grid.size]
    if settings.crop == "body":
        box = body_box(image)
    else:
        bounds = bounds if settings.crop == "bounds" else settings.crop
        if bounds is None:
            return whole
        box = [slice(int(bounds[i]), int(bounds[i + 1]) + 1) for i in (0, 2, 4)]
    result = []
    for part, size, spacing in zip(box, grid.size, grid.geometry.spacing, strict=True):
        voxels = math.ceil(settings.margin / spacing)
        start, stop = max(part.start - voxels, 0), min(part.stop + voxels, size)
        if start >= stop:
            raise ValueError(f"lies outside of the bounds {' '.join(map(str, bounds))} that it is to be cropped to")
        result.append(slice(start, stop))
    return result
