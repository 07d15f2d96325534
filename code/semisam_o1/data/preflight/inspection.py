"""Inspection of one volume: its properties and all of its faults.

Imports no PyTorch, so that the processes that read volumes start quickly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Dataset, Geometry, content_hash

MAX_INTENSITY = 1e12  # absolute value; its square, summed over a volume, is still a float32


@dataclass(frozen=True)
class VolumeInfo:
    """Properties of one volume.

    Attributes:
        name: name of the volume.
        shape: (W, H, D).
        hash: hash of the image.
        label_hash: hash of the label, None if there is none.
        geometry: spacing, origin and direction.
    """

    name: str
    shape: tuple[int, int, int]
    hash: str
    label_hash: str | None
    geometry: Geometry


@dataclass(frozen=True)
class Need:
    """Requirements on a volume.

    Attributes:
        num_classes: number of classes, background included.
        label: whether a label is required.
        read_label: whether a label, if there is one, is read and must be valid.
    """

    num_classes: int
    label: bool
    read_label: bool


@dataclass(frozen=True)
class Report:
    """Result of the inspection of a volume.

    Attributes:
        info: properties of the volume, None if it cannot be read.
        faults: one sentence per fault, each with the file's name.
        classes: label values, if the label was read.
    """

    info: VolumeInfo | None
    faults: tuple[str, ...] = ()
    classes: frozenset[int] = frozenset()


def inspect(dataset: Dataset, name: str, need: Need) -> Report:
    """Read one volume and list its faults."""
    path = dataset.path(name)
    try:
        volume = dataset.load(name)
    except InputError as error:
        return Report(None, (str(error),))
    image, label = volume.image, volume.label
    classes = frozenset() if label is None or not need.read_label else frozenset(np.unique(label).tolist())
    faults = [_image_fault(image)]
    if label is None and need.label:
        faults.append("the volume needs a label here and has none; add the dataset 'label'")
    elif classes and max(classes) >= need.num_classes:
        faults.append(
            f"the label holds the value {max(classes)}, {need.num_classes} classes allow 0 to {need.num_classes - 1}; "
            "raise the number of classes, or merge all foreground into one class"
        )
    label_hash = None if label is None else content_hash(label)
    info = VolumeInfo(name, image.shape, content_hash(image), label_hash, volume.geometry)
    return Report(info, tuple(f"{path}: {fault}" for fault in faults if fault), classes)


def _image_fault(image: np.ndarray) -> str | None:
    finite = np.isfinite(image)
    if not finite.all():
        return f"the image holds {int((~finite).sum())} values that are NaN or infinite; replace them"
    largest = image.flat[np.abs(image).argmax()]
    if abs(largest) > MAX_INTENSITY:
        return (
            f"the image holds {largest:g}; values beyond {MAX_INTENSITY:g} are beyond float32 arithmetic. "
            "Is that a mark for missing data? Replace it"
        )
    if image.min() == image.max():
        return f"every voxel of the image is {image.flat[0]:g}; export the scan again"
    return None
