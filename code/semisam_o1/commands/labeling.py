"""Add the mask of one more scan to a dataset, whose next training then starts from one more label."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semisam_o1.commands.own_masks import read_own_mask
from semisam_o1.core.atomic_io import write_text
from semisam_o1.core.errors import InputError, listed
from semisam_o1.core.flags import AT_LEAST_0, CommandConfig, assign, option, shell_command
from semisam_o1.data.dataset.hdf5 import open_hdf5, write_hdf5
from semisam_o1.data.dataset.volumes import Dataset, Volume
from semisam_o1.data.preparation.grid import resample_label
from semisam_o1.data.preparation.settings import Preparation, read_classes, read_preparation


@dataclass(frozen=True, kw_only=True)
class LabelConfig(CommandConfig):
    """Flags of ``add_label.py``."""

    root: Path = option(None, "dataset folder", positional=True, metavar="ROOT")
    name: str = option(None, "name of the scan in the dataset", positional=True, metavar="NAME")
    mask: Path = option(None, "its mask, drawn on the scan's own file", positional=True, metavar="MASK")
    labeled_num: int = option(1, "number of scans that were labeled before, the first of train.txt", within=AT_LEAST_0)
    overwrite: bool = option(False, "replace the label that the scan has")

    def __post_init__(self) -> None:
        assign(self, root=Path(self.root).expanduser().resolve(), mask=Path(self.mask).expanduser())
        super().__post_init__()


def add_label(config: LabelConfig) -> None:
    """Write the label into the scan's file, move its name behind the labeled ones of train.txt, and say what is next.

    Raises:
        InputError: if the scan or the mask cannot be used; nothing was written then.
    """
    dataset, path = Dataset(config.root), config.root / "train.txt"
    names = dataset.names(path.name)
    for other in ("val.txt", "test.txt"):
        if config.name in dataset.names(other, optional=True):
            raise InputError(f"{dataset.root / other} names {config.name}; take it out there to train on its label")
    if not os.path.isfile(dataset.path(config.name)):  # false, too, for a name that no file can have
        raise InputError(f"{dataset.root / 'data'} holds no scan {config.name}; it has {listed(names)}")
    if config.labeled_num > len(names):
        raise InputError(f"--labeled_num {config.labeled_num} is more than {path} names ({len(names)})")
    volume = dataset.load(config.name)
    if volume.label is not None and not config.overwrite:
        raise InputError(f"{config.name} has a label already; --overwrite replaces it")
    label = label_on_grid(config, dataset, volume)
    write_label(dataset.path(config.name), label, config.mask)
    labeled = config.labeled_num + (config.name not in names[: config.labeled_num])
    if labeled > config.labeled_num:
        write_text(path, moved(path.read_text(encoding="utf-8-sig"), config.name, config.labeled_num))
    print(f"{dataset.path(config.name)}: labeled, {np.count_nonzero(label)} voxels of foreground")
    print(f"{path}: the first {labeled} scans are labeled: {listed(dataset.names(path.name)[:labeled])}")
    root, exp = shlex.quote(str(dataset.root)), shlex.quote(f"{dataset.root.name}_{labeled}")
    print(
        "next (features that are known are kept):\n"
        f"  {shell_command('train')} --root_path {root} --exp {exp} --recipe best --labeled_num {labeled}"
    )


def label_on_grid(config: LabelConfig, dataset: Dataset, volume: Volume) -> np.ndarray:
    """Return the mask as a label (W, H, D) uint8 on the grid of the prepared volume; raises InputError."""
    settings, classes = read_preparation(config.root) or Preparation(orientation="keep"), read_classes(config.root)
    original, nearest = volume.original or volume.grid, settings.label_interpolation == "nearest"
    mask = read_own_mask(volume, config.mask, original, settings, classes)
    label = resample_label(mask, original, volume.grid, nearest=nearest)
    if not label.any():
        raise InputError(f"{config.mask} marks nothing of {config.name}; draw the structure")
    if classes.count is not None and label.max() >= classes.count:
        known = f"the dataset's classes end at {classes.count - 1}"
        raise InputError(f"{config.mask} holds the value {label.max()}, {known}; renumber it")
    return label


def write_label(path: Path, label: np.ndarray, mask: Path) -> None:
    """Replace the label (W, H, D) in the file of a volume; everything else in it stays."""
    with write_hdf5(path) as new:
        with open_hdf5(path) as old:
            for key in old:
                if key != "label":
                    old.copy(key, new)
            for key, value in old.attrs.items():
                new.attrs[key] = value
        new.create_dataset("label", data=label, compression="gzip", compression_opts=4, fletcher32=True)
        new.attrs["mask"] = str(mask.resolve())


def moved(text: str, name: str, position: int) -> str:
    """Return a list with the line of a name at a position, counted from 0; blank lines are left out."""
    lines = [line for line in text.splitlines() if line.split(",")[0].strip()]
    own = [line for line in lines if line.split(",")[0].strip() == name] or [name]
    others = [line for line in lines if line not in own]
    return "".join(f"{line}\n" for line in [*others[:position], *own, *others[position:]])
