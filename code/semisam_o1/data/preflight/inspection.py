"""One volume looked at closely: what it is, and everything that is wrong with it.

Free of PyTorch, so that the processes that read volumes start at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Dataset, Geometry, content_hash

LARGEST = 1e12  # value of an image: its square, summed over a volume, is still a float32


@dataclass(frozen=True)
class VolumeInfo:
    """What the preflight found out about one volume."""

    name: str
    shape: tuple[int, int, int]
    hash: str  # of the image's values
    label_hash: str | None  # of the label's values, None where there is no label
    geometry: Geometry


@dataclass(frozen=True)
class Need:
    """What is asked of a volume.

    Attributes:
        num_classes: background included.
        label: whether it must have one.
        read_label: whether its label, if there is one, will be read and has to be right.
    """

    num_classes: int
    label: bool
    read_label: bool


@dataclass(frozen=True)
class Report:
    """A volume and its faults; ``info`` is None where it could not be read at all."""

    info: VolumeInfo | None
    faults: tuple[str, ...]
    classes: frozenset[int] = frozenset()

    def as_json(self) -> dict[str, Any]:
        info = self.info and dataclasses.asdict(self.info)
        return {"info": info, "faults": self.faults, "classes": sorted(self.classes)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Report:
        info = content["info"]
        if info is not None:
            geometry = {key: tuple(v) if isinstance(v, list) else v for key, v in info["geometry"].items()}
            info = VolumeInfo(**{**info, "shape": tuple(info["shape"]), "geometry": Geometry(**geometry)})
        return cls(info, tuple(content["faults"]), frozenset(content["classes"]))


def inspect(dataset: Dataset, name: str, need: Need) -> Report:
    """Read one volume and list its faults."""
    path = dataset.path(name)
    try:
        volume = dataset.load(name)
    except InputError as error:
        return Report(None, (str(error),))
    faults = []
    finite = np.isfinite(volume.image)
    if not finite.all():
        faults.append(f"{path}: the image holds {int((~finite).sum())} values that are NaN or infinite; replace them")
    elif np.abs(volume.image).max() > LARGEST:
        faults.append(
            f"{path}: the image holds {volume.image.flat[np.abs(volume.image).argmax()]:g}; values beyond {LARGEST:g} "
            "are beyond float32 arithmetic. Is that a mark for missing data? Replace it"
        )
    elif volume.image.min() == volume.image.max():
        faults.append(f"{path}: every voxel of the image is {volume.image.flat[0]:g}; export the scan again")
    classes: frozenset[int] = frozenset()
    if volume.label is None:
        if need.label:
            faults.append(f"{path}: the volume needs a label here and has none; add the dataset 'label'")
    elif need.read_label:
        classes = frozenset(np.unique(volume.label).tolist())
        if max(classes) >= need.num_classes:
            faults.append(
                f"{path}: the label holds the value {max(classes)}, --num_classes {need.num_classes} allows 0 to "
                f"{need.num_classes - 1}; raise it, or merge all foreground with --binary_label"
            )
    label_hash = None if volume.label is None else content_hash(volume.label)
    info = VolumeInfo(name, volume.image.shape, content_hash(volume.image), label_hash, volume.geometry)
    return Report(info, tuple(faults), classes)
