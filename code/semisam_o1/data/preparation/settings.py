"""Settings of a preparation: command-line flags, stored beside the dataset and in args.json of every run on it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semisam_o1.core.atomic_io import read_json
from semisam_o1.core.errors import InputError
from semisam_o1.core.flags import AT_LEAST_0, AT_LEAST_1, check_ranges, option
from semisam_o1.data.preparation.formats import MAX_SPACING, MIN_SPACING
from semisam_o1.data.preparation.grid import is_orientation

FILE_NAME = "preparation.json"
WINDOWS = {  # Hounsfield units, low and high
    "abdomen": (-160.0, 240.0),
    "mediastinum": (-125.0, 275.0),
    "lung": (-1000.0, 400.0),
    "bone": (-450.0, 1050.0),
    "brain": (0.0, 80.0),
}
MAX_CLASSES = 255  # background included
BOUNDS, NAMES = "x0,x1,y0,y1,z0,z1", ", ".join(WINDOWS)


def rising(bounds: Collection[int]) -> bool:
    """Return whether x0, x1, y0, y1, z0, z1 hold no last voxel before the first one."""
    return len(bounds) == 6 and all(first <= last for first, last in zip(bounds[::2], bounds[1::2], strict=True))


def spacing_or_auto(text: str) -> tuple[float, ...] | str:
    """Read a spacing, or 'auto'."""
    return text if text == "auto" else spacing_mm(text)


def spacing_mm(text: str) -> tuple[float, ...]:
    """Read '1.5' or '1,1,2.5'."""
    values = _numbers(text, (1, 3), "one number or three (x y z), in mm")
    return values * (3 // len(values))


def window_bounds(text: str) -> tuple[float, ...]:
    """Read the name of a window, or 'LOW,HIGH'."""
    return WINDOWS.get(text) or _numbers(text, (2,), f"low and high, or one of {NAMES}")


def _numbers(text: str, counts: Collection[int], expected: str) -> tuple[float, ...]:
    with contextlib.suppress(ValueError):
        values = tuple(map(float, text.split(",")))
        if len(values) in counts:
            return values
    raise argparse.ArgumentTypeError(f"{text} must be {expected}")


def region(text: str) -> str | tuple[int, ...] | Path:
    """Read what to crop to: 'body', 'x0,x1,y0,y1,z0,z1' in whole voxels, or the path of a table."""
    words = text.replace(",", " ").split()
    if len(words) != 6 or not all(word.isdecimal() for word in words):
        return text if text == "body" else Path(text)
    bounds = tuple(map(int, words))
    if not rising(bounds):
        raise argparse.ArgumentTypeError(f"{text}: of each axis the first voxel comes first ({BOUNDS})")
    return bounds


@dataclass(frozen=True)
class Preparation:
    """How a scan becomes a volume to train on.

    ``crop`` is 'body', six numbers (first and last voxel along x, y, z in the order of the file, from 0), 'bounds'
    (each scan has such numbers of its own), or None; ``intensity`` may also be 'window'.
    """

    orientation: str = option(
        "RAS", "what x, y, z point towards, or keep", metavar="RAS", type=lambda text: text.replace("KEEP", "keep")
    )
    spacing: tuple[float, float, float] | None = option(
        None,
        "resample to this spacing: one number, three, or auto, which suits scans and machine (default: as it is)",
        metavar="MM",
        type=spacing_or_auto,
    )
    crop: str | tuple[int, ...] | None = option(
        None,
        f"body; six voxel numbers {BOUNDS} for all scans; or a CSV table NAME,{BOUNDS}",
        metavar="WHAT",
        type=region,
    )
    margin: float = option(10.0, "distance kept around the crop, in mm", AT_LEAST_0, metavar="MM")
    intensity: str = option(
        "zscore", "default for brats: zscore-nonzero; for la: keep", choices=("zscore", "zscore-nonzero", "keep")
    )
    window: tuple[float, float] | None = option(
        None, f"for CT, scaled to −1 … 1: low and high, or one of {NAMES}", metavar="LOW HIGH", type=window_bounds
    )
    labels: dict[int, int] = dataclasses.field(default_factory=dict)  # label value in the file → class
    other_labels: int | None = None  # class of the other values above 0, None to keep them
    label_interpolation: str = option("onehot", "of labels where the grid changes", choices=("onehot", "nearest"))
    label_slices: int | None = option(
        None,
        "masks are drawn on every Nth slice: fill the slices between (1: on all, nothing is filled)",
        AT_LEAST_1,
        metavar="N",
    )
    channel: int | None = option(None, "of images with several, counted from 0", AT_LEAST_0, metavar="N")

    def __post_init__(self) -> None:
        faults = []
        if self.orientation != "keep" and not is_orientation(self.orientation):
            faults.append(f"--orientation must name each axis once, such as RAS or LPS, it is {self.orientation}")
        if self.spacing is not None and not all(MIN_SPACING <= value <= MAX_SPACING for value in self.spacing):
            given = " ".join(map(str, self.spacing))
            faults.append(f"--spacing must lie between {MIN_SPACING:g} and {MAX_SPACING:g} mm, it is {given}")
        if self.window is not None and not -math.inf < self.window[0] < self.window[1] < math.inf:
            faults.append(f"--window must rise from low to high, it is {self.window[0]:g} {self.window[1]:g}")
        check_ranges(self, faults)

    def class_of(self, value: int) -> int:
        """Return the class that a label value of the file becomes."""
        return self.labels.get(value, value if self.other_labels is None or value == 0 else self.other_labels)

    def check_stored(self) -> None:
        """Check what the command line cannot get wrong but a file can; raises ValueError naming the entry."""
        crop, numbers = self.crop, (*(self.spacing or ()), *(self.window or ()), self.margin, *self.labels.values())
        sound = {
            "spacing": self.spacing is None or len(self.spacing) == 3,
            "window": len(self.window) == 2 if self.intensity == "window" else self.window is None,
            "intensity": self.intensity in ("zscore", "zscore-nonzero", "window", "keep"),
            "label_interpolation": self.label_interpolation in ("onehot", "nearest"),
            "crop": crop in (None, "body", "bounds") or (isinstance(crop, tuple) and rising(crop)),
            "channel": self.channel is None or type(self.channel) is int,
            "numbers": all(isinstance(number, (int, float)) for number in numbers),
        }
        if wrong := [name for name, good in sound.items() if not good]:
            raise ValueError(f"its {', '.join(wrong)} cannot be used")

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Preparation:
        """Restore the settings from what ``to_json`` returned.

        Raises:
            InputError: naming ``where`` the settings came from, if they cannot be used.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if "orientation" not in values or "intensity" not in values:
            raise InputError(f"{where} holds no settings of a preparation; name the preparation.json of the dataset")
        try:
            taken = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in known}
            taken["labels"] = {int(key): int(value) for key, value in values.get("labels", {}).items()}
            settings = cls(**taken)
            settings.check_stored()
            return settings
        except (AttributeError, TypeError, ValueError, IndexError, InputError) as error:
            raise InputError(f"{where} holds no settings of a preparation ({error}); prepare the scans again") from None


def read_preparation(path: Path) -> Preparation | None:
    """Return the settings in a file or in a dataset folder, None where there are none; raises as ``read_json``."""
    file = path / FILE_NAME if path.is_dir() else path
    values = read_json(file, "prepare the scans again")
    return None if values is None else Preparation.from_json(values, str(file))


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset, as far as its preparation found them in the masks."""

    count: int | None = None  # background included; None where no mask was found
    names: dict[int, str] = dataclasses.field(default_factory=dict)  # of classes above 0

    def to_json(self) -> dict[str, Any]:
        return {"num_classes": self.count, "class_names": {str(c): name for c, name in self.names.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Classes:
        """Restore what ``to_json`` returned; what is missing or malformed counts as not known."""
        count, names = values.get("num_classes"), values.get("class_names")
        pairs = names.items() if isinstance(names, Mapping) else ()
        known = {int(c): str(name) for c, name in pairs if str(c).isdecimal()}
        return cls(count if type(count) is int and 2 <= count <= MAX_CLASSES else None, known)

    def name(self, c: int) -> str:
        """Return the name of a class above 0, 'foreground' or 'class 1', … where it has none."""
        return self.names.get(c, "foreground" if self.count in (None, 2) and c == 1 else f"class {c}")


def read_classes(path: Path) -> Classes:
    """Return the classes of a dataset by its folder or its preparation.json, none where there is no such file.

    Raises:
        InputError: if the file cannot be read.
    """
    values = read_json(path / FILE_NAME if path.is_dir() else path, "prepare the scans again")
    return Classes.from_json(values or {})
