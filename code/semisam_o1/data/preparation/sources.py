"""The layouts that scans come in: folders of files or DICOM series, nnU-Net, Decathlon, BraTS, the public LA copy."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from semisam_o1.core.atomic_io import read_json
from semisam_o1.core.errors import InputError, raise_faults
from semisam_o1.data.preparation.formats import SUFFIXES, stem
from semisam_o1.data.preparation.listing import Listing, entries, list_scans, name_fault
from semisam_o1.data.preparation.segmentation import read_segments, values_of_names
from semisam_o1.data.preparation.settings import rising

PUBLIC_FILE = "mri_norm2.h5"
# Endings of the files of a modality in the challenge's releases up to 2021 and from 2023 on.
BRATS_MODALITIES = {
    "flair": ("_flair", "-t2f"),
    "t1": ("_t1", "-t1n"),
    "t1ce": ("_t1ce", "-t1c"),
    "t2": ("_t2", "-t2w"),
}
BRATS_LABEL = ("_seg", "-seg")


@dataclass(frozen=True)
class ScanFiles:
    """The files of one scan."""

    name: str
    image: Path  # a file, a folder with a DICOM series, or the HDF5 file of the public LA copy
    label: Path | None = None
    bounds: tuple[int, ...] | None = None  # first and last voxel along x, y, z to crop to
    segments: Mapping[str, int] | None = None  # label value by name of segment, where the label is a segmentation


@dataclass(frozen=True)
class FoundScans:
    """The scans of a source."""

    scans: dict[str, ScanFiles]  # by name, sorted
    where: str  # the searched folders, for error messages
    orphans: tuple[str, ...] = ()  # names of labels without an image
    class_names: dict[int, str] = field(default_factory=dict)  # of label values, where the source states them
    skipped: dict[str, list[str]] = field(default_factory=dict)  # reason → names of files and folders

    @property
    def labeled(self) -> set[str]:
        return {name for name, scan in self.scans.items() if scan.label is not None}


def find_folder(images: Path, labels: Path | None = None) -> FoundScans:
    """Find a folder of scans (one file or one DICOM folder each) and one of their labels, matched by name.

    The segments of 3D Slicer's segmentations have one label value for each name. Both folders may be the same; then the
    segmentations are the labels.

    Raises:
        InputError: if a folder cannot be used or a name stands for two files.
    """
    found = list_scans(images, segmentations=False)
    same = labels is not None and images.resolve() == labels.resolve()
    masks = Listing() if labels is None else list_scans(labels, segmentations=same or None)
    label_files = masks.files
    image_files = _without_channel(found.files, label_files, images if labels is not None else None)
    segments = {name: read_segments(path) for name, path in label_files.items() if path.is_file()}
    values = values_of_names(segments.values())
    if same:
        label_files = {name: path for name, path in label_files.items() if segments.get(name)}
    scans = {
        name: ScanFiles(name, path, label_files.get(name), segments=values if segments.get(name) else None)
        for name, path in sorted(image_files.items())
    }
    where = str(images) if labels is None else f"{images} and {labels}"
    orphans = tuple(sorted(label_files.keys() - scans.keys()))
    class_names, also = {value: name for name, value in values.items()}, {} if same else masks.skipped
    skipped = {reason: [*found.skipped.get(reason, ()), *also.get(reason, ())] for reason in found.skipped | also}
    return FoundScans(scans, where, orphans, class_names, skipped)


def _without_channel(
    image_files: dict[str, Path], label_files: Mapping[str, Path], images: Path | None
) -> dict[str, Path]:
    """Return files by name without nnU-Net's number of the first channel, NAME_0000, where that is what it is.

    Args:
        images: the folder, where a second channel of a scan is a fault; None: then the names are kept.
    """
    channels = {name: re.fullmatch(r"(.+)_(\d{4})", name) for name in image_files}
    if not all(channels.values()) or image_files.keys() & label_files.keys():
        return image_files  # scans numbered so have labels of the same names
    several = sorted(name for name, match in channels.items() if match[2] != "0000")
    if several and images is not None:
        raise InputError(
            f"{images} holds more than the first channel ({', '.join(several)}); keep one image per scan, or "
            "prepare the folder as an nnU-Net dataset, of which one channel can be chosen"
        )
    return image_files if several else {channels[name][1]: path for name, path in image_files.items()}


def find_dataset_json(folder: Path, channel: int | None = None) -> FoundScans:
    """Find the scans of an nnU-Net or Decathlon dataset; those of imagesTs have no label.

    Args:
        channel: of nnU-Net's NAME_0000, NAME_0001, … (Decathlon keeps the channels in one 4-D file).
    """
    path, number = folder / "dataset.json", channel or 0
    if (dataset := read_json(path, "download it again")) is None:
        raise InputError(f"{path} is missing; give the folder with dataset.json, imagesTr and labelsTr")
    if isinstance(dataset.get("training"), list) and dataset["training"]:
        scans = [_listed_scan(path, entry, number) for entry in [*dataset["training"], *(dataset.get("test") or [])]]
    else:
        images = {stem(image) or "": image for image in entries(folder, "imagesT[rs]/[!.]*")}
        named = [(re.fullmatch(rf"(.+)_{number:04d}", name), image) for name, image in images.items()]
        scans = [ScanFiles(m[1], image, _with_suffix(folder / "labelsTr" / m[1])) for m, image in named if m]
    labels = dataset.get("labels")  # Decathlon's {"1": "name"} or nnU-Net's {"name": 1}; regions are left out
    pairs = labels.items() if isinstance(labels, Mapping) else ()
    pairs = [sorted(map(str, pair), key=str.isdigit, reverse=True) for pair in pairs]
    names = {int(value): name for value, name in pairs if value.isdigit() and int(value) > 0}
    expected = f"scan of channel {number}; imagesTr must hold NAME_{number:04d} and an ending of {', '.join(SUFFIXES)}"
    taken = {scan.image.resolve() for scan in scans}
    skipped: dict[str, list[str]] = {}
    for image in (image for image in entries(folder, "imagesT[rs]/*") if image.resolve() not in taken):
        other = "of other formats" if stem(image) is None else "of other channels, or not in dataset.json"
        skipped.setdefault("hidden" if image.name.startswith(".") else other, []).append(image.name)
    return _found(scans, folder, expected, names, skipped)


def _listed_scan(path: Path, entry: Any, channel: int) -> ScanFiles:
    """Return a scan as an entry of 'training' or 'test' in dataset.json names it."""
    image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, Mapping) else (entry, None)
    if not isinstance(image, str):
        raise InputError(f"{path}: an entry of 'training' names no image")
    image, label = path.parent / image, path.parent / label if isinstance(label, str) else None
    name = stem(image) or image.name
    file = image if image.is_file() else _with_suffix(image.with_name(f"{name}_{channel:04d}"))
    if file is None or (label and not label.is_file()):
        raise InputError(f"{label if file else image} is missing; dataset.json names it")
    return ScanFiles(name, file, label)


def find_brats(folder: Path, modality: str) -> FoundScans:
    """Find the scans of a BraTS release: a folder per scan, anywhere below, with a file per modality and a label."""
    scans, lacking, skipped = [], [], []
    for case in filter(Path.is_dir, entries(folder, "**/*")):
        image, label, *others = (
            next(filter(None, (_with_suffix(case / f"{case.name}{ending}") for ending in endings)), None)
            for endings in (BRATS_MODALITIES[modality], BRATS_LABEL, *BRATS_MODALITIES.values())
        )
        if image:
            scans.append(ScanFiles(case.name, image, label))
        elif any(others):
            lacking.append(case.name)
        elif not any(map(Path.is_dir, case.iterdir())):
            skipped.append(case.name)
    if lacking:
        raise InputError(f"{folder}: no {modality} image of {', '.join(lacking)}; choose another modality")
    names = {1: "necrotic core", 2: "edema", 4: "enhancing tumor"}
    expected = f"folder NAME with NAME_{modality}.nii.gz; is it a BraTS release?"
    return _found(scans, folder, expected, names, {"folders without files of that name": skipped})


def find_public_la(folder: Path) -> FoundScans:
    """Find the scans of the public LA copy, FOLDER/NAME/mri_norm2.h5."""
    scans = [ScanFiles(file.parent.name, file, file) for file in entries(folder, f"*/{PUBLIC_FILE}")]
    others = [path.name for path in entries(folder, "*") if not (path / PUBLIC_FILE).is_file()]
    expected = f"NAME/{PUBLIC_FILE}; give the folder that holds the scans' folders"
    return _found(scans, folder, expected, {1: "left atrium"}, {f"without {PUBLIC_FILE}": others})


def with_bounds(found: FoundScans, table: Path) -> FoundScans:
    """Return the scans with the bounds that a CSV table gives: NAME, x0, x1, y0, y1, z0, z1 (voxels, from 0)."""
    try:
        rows = [row for row in csv.reader(table.read_text(encoding="utf-8-sig").splitlines()) if any(row)]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the crop {table} is neither 'body', six numbers nor a readable table ({error})") from None
    scans = dict(found.scans)
    for number, (name, *values) in enumerate(rows, start=1):
        name, bounds = name.strip(), ()
        with contextlib.suppress(ValueError):
            bounds = tuple(map(int, values))
        if number == 1 and not bounds:  # a heading
            continue
        if not rising(bounds):
            raise InputError(f"{table}, line {number}: a line must be NAME, x0, x1, y0, y1, z0, z1 in whole voxels")
        if name not in scans:
            raise InputError(f"{table}, line {number}: there is no scan {name} in {found.where}")
        scans[name] = replace(scans[name], bounds=bounds)
    return replace(found, scans=scans)


def _found(
    scans: Sequence[ScanFiles],
    folder: Path,
    expected: str,
    class_names: dict[int, str],
    skipped: Mapping[str, list[str]],
) -> FoundScans:
    """Return the scans by name, sorted; there must be one."""
    if not scans:
        raise InputError(f"{folder} holds no {expected}")
    raise_faults(
        [fault for scan in scans if (fault := name_fault(scan.image, scan.name))], "faults, nothing was written"
    )
    by_name = {scan.name: scan for scan in sorted(scans, key=lambda scan: scan.name)}
    told = {reason: names for reason, names in skipped.items() if names}
    return FoundScans(by_name, str(folder), class_names=class_names, skipped=told)


def _with_suffix(path: Path) -> Path | None:
    """Return the image file of this name and any ending, None if there is none."""
    return next((file for suffix in SUFFIXES if (file := path.with_name(f"{path.name}{suffix}")).is_file()), None)
