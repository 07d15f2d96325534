"""The layouts that scans come in: folders of files or DICOM series, nnU-Net, Decathlon, BraTS, the public LA copy."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from semisam_o1.core.errors import InputError, raise_faults
from semisam_o1.data.preparation.formats import SUFFIXES, is_dicom_folder, stem
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


@dataclass(frozen=True)
class FoundScans:
    """The scans of a source."""

    scans: dict[str, ScanFiles]  # by name, sorted
    where: str  # the searched folders, for error messages
    orphans: tuple[str, ...] = ()  # names of labels without an image
    class_names: dict[int, str] = field(default_factory=dict)  # of label values, where the source states them

    @property
    def labeled(self) -> set[str]:
        return {name for name, scan in self.scans.items() if scan.label is not None}


def find_folder(images: Path, labels: Path | None = None) -> FoundScans:
    """Find a folder of scans (one file or one DICOM folder each) and one of their labels, matched by name.

    Raises:
        InputError: if a folder cannot be used or a name stands for two files.
    """
    image_files = _files_by_stem(images)
    label_files = {} if labels is None else _files_by_stem(labels)
    # nnU-Net writes NAME_0000 for the first channel of NAME; scans numbered so have labels of the same names.
    channels = {name: re.fullmatch(r"(.+)_(\d{4})", name) for name in image_files}
    if all(channels.values()) and not image_files.keys() & label_files.keys():
        several = sorted(name for name, match in channels.items() if match[2] != "0000")
        if several and labels is not None:
            raise InputError(
                f"{images} holds more than the first channel ({', '.join(several)}); keep one image per scan, or "
                "prepare the folder as an nnU-Net dataset, of which one channel can be chosen"
            )
        if not several:
            image_files = {channels[name][1]: path for name, path in image_files.items()}
    scans = {name: ScanFiles(name, path, label_files.get(name)) for name, path in sorted(image_files.items())}
    where = str(images) if labels is None else f"{images} and {labels}"
    return FoundScans(scans, where, tuple(sorted(label_files.keys() - scans.keys())))


def find_dataset_json(folder: Path, channel: int | None = None) -> FoundScans:
    """Find the scans of an nnU-Net or Decathlon dataset; those of imagesTs have no label.

    Args:
        channel: of nnU-Net's NAME_0000, NAME_0001, … (Decathlon keeps the channels in one 4-D file).
    """
    dataset, number = _read_dataset_json(folder / "dataset.json"), channel or 0
    scans: dict[str, ScanFiles] = {}
    if isinstance(dataset.get("training"), list) and dataset["training"]:
        for entry in [*dataset["training"], *(dataset.get("test") or [])]:
            image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, Mapping) else (entry, None)
            if not isinstance(image, str):
                raise InputError(f"{folder / 'dataset.json'}: an entry of 'training' names no image")
            label_path = folder / label if isinstance(label, str) else None
            image_path = _channel_file(folder / image, number)
            for path, named in ((image_path, folder / image), (label_path, label_path)):
                if named is not None and (path is None or not path.is_file()):
                    raise InputError(f"{named} is missing; dataset.json names it")
            name = stem(Path(image)) or Path(image).name
            scans[name] = ScanFiles(name, image_path, label_path)
    else:
        for path in [*sorted(folder.glob("imagesTr/*")), *sorted(folder.glob("imagesTs/*"))]:
            match = re.fullmatch(r"(.+)_(\d{4})", stem(path) or "")
            if match and int(match[2]) == number and not path.name.startswith("."):
                scans[match[1]] = ScanFiles(match[1], path, _existing_file(folder / "labelsTr" / match[1], SUFFIXES))
    if not scans:
        raise InputError(
            f"{folder} holds no scan of channel {number}; imagesTr must hold NAME_{number:04d} and an ending of "
            f"{', '.join(SUFFIXES)}"
        )
    return FoundScans(dict(sorted(scans.items())), str(folder), class_names=_class_names(dataset.get("labels")))


def find_brats(folder: Path, modality: str) -> FoundScans:
    """Find the scans of a BraTS release: a folder per scan, anywhere below, with a file per modality and a label."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the one that holds the scans' folders")
    scans, lacking = {}, []
    for case in sorted(path for path in folder.rglob("*") if path.is_dir()):
        files = {stem(path): path for path in sorted(case.iterdir()) if path.is_file() and stem(path)}
        images, label = (
            [files[case.name + ending] for ending in endings if case.name + ending in files]
            for endings in (BRATS_MODALITIES[modality], BRATS_LABEL)
        )
        if images:
            scans[case.name] = ScanFiles(case.name, images[0], label[0] if label else None)
        elif any(f"{case.name}{ending}" in files for endings in BRATS_MODALITIES.values() for ending in endings):
            lacking.append(case.name)
    if lacking:
        raise InputError(f"{folder}: no {modality} image of {', '.join(lacking)}; choose another modality")
    if not scans:
        raise InputError(f"{folder} holds no folder NAME with NAME_{modality}.nii.gz; is it a BraTS release?")
    names = {1: "necrotic core", 2: "edema", 4: "enhancing tumor"}
    return FoundScans(dict(sorted(scans.items())), str(folder), class_names=names)


def find_public_la(folder: Path) -> FoundScans:
    """Find the scans of the public LA copy, FOLDER/NAME/mri_norm2.h5."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the one that holds NAME/{PUBLIC_FILE}")
    scans = {file.parent.name: ScanFiles(file.parent.name, file, file) for file in folder.glob(f"*/{PUBLIC_FILE}")}
    if not scans:
        raise InputError(f"{folder} holds no NAME/{PUBLIC_FILE}; give the folder that holds the scans' folders")
    return FoundScans(dict(sorted(scans.items())), str(folder), class_names={1: "left atrium"})


def with_bounds(found: FoundScans, table: Path) -> FoundScans:
    """Return the scans with the bounds that a CSV table gives: NAME, x0, x1, y0, y1, z0, z1 (voxels, from 0)."""
    try:
        rows = [row for row in csv.reader(table.read_text(encoding="utf-8-sig").splitlines()) if any(row)]
    except (OSError, UnicodeDecodeError) as error:
        message = f"the crop {table} is neither 'body', six numbers nor a readable CSV table ({error})"
        raise InputError(message) from None
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


def _files_by_stem(folder: Path) -> dict[str, Path]:
    """Return the image files and DICOM folders of a folder by their names without ending."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    files: dict[str, Path] = {}
    faults = []
    for path in sorted(folder.iterdir()):
        name = stem(path) if path.is_file() else path.name if is_dicom_folder(path) else None
        if not name or path.name.startswith("."):  # macOS leaves ._NAME.nii.gz beside NAME.nii.gz
            continue
        if name in files:
            faults.append(f"{files[name]} and {path} have the same name {name}; keep one of them")
        elif "," in name or "\\" in name or name != name.strip():
            faults.append(f"{path} has a name that a list cannot hold; rename it without comma, backslash, outer space")
        files.setdefault(name, path)
    raise_faults(faults, "faults, nothing was written")
    if not files:
        raise InputError(f"{folder} holds no image file ({', '.join(SUFFIXES)}) and no folder of a DICOM series")
    return files


def _read_dataset_json(path: Path) -> Mapping[str, Any]:
    try:
        dataset = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; give the folder with dataset.json, imagesTr and labelsTr") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); download it again") from None
    if not isinstance(dataset, Mapping):
        raise InputError(f"{path} does not describe a dataset; download it again")
    return dataset


def _class_names(labels: Any) -> dict[int, str]:
    """Return label value → name from Decathlon's {"1": "name"} or nnU-Net's {"name": 1}; regions are left out."""
    items = labels.items() if isinstance(labels, Mapping) else ()
    pairs = [(key, value) if str(key).isdigit() else (value, key) for key, value in items]
    return {int(number): str(name) for number, name in pairs if str(number).isdigit() and int(number) > 0}


def _channel_file(path: Path, channel: int) -> Path | None:
    """Return the file itself, or that of one channel where NAME stands for NAME_0000, NAME_0001, …"""
    if path.is_file():
        return path
    name = stem(path) or path.name
    return _existing_file(path.with_name(f"{name}_{channel:04d}"), (path.name[len(name) :], *SUFFIXES))


def _existing_file(path: Path, endings: tuple[str, ...]) -> Path | None:
    """Return the first of PATH + ending that is a file."""
    return next((file for ending in endings if (file := path.with_name(f"{path.name}{ending}")).is_file()), None)
