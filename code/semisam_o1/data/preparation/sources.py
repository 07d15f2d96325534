"""Where scans lie in what people have: folders of files or DICOM series, nnU-Net, Decathlon, BraTS, the LA copy."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from semisam_o1.core.errors import InputError
from semisam_o1.data.preparation.formats import SUFFIXES, is_dicom_folder, stem

PUBLIC_FILE = "mri_norm2.h5"
# How the files of one modality end in the challenge's releases up to 2021 and from 2023 on.
BRATS_MODALITIES = {
    "flair": ("_flair", "-t2f"),
    "t1": ("_t1", "-t1n"),
    "t1ce": ("_t1ce", "-t1c"),
    "t2": ("_t2", "-t2w"),
}
BRATS_LABEL = ("_seg", "-seg")


@dataclass(frozen=True)
class Scan:
    """The files of one scan.

    Attributes:
        image: a file, a folder with a DICOM series, or the HDF5 file of the public LA copy.
        bounds: first and last voxel along x, y, z that it is to be cropped to.
    """

    name: str
    image: Path
    label: Path | None = None
    bounds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Found:
    """The scans of a source.

    Attributes:
        scans: by name, sorted.
        orphans: names of labels without an image.
        class_names: of label values, where the source states them.
        where: what was searched, for error messages.
        has_labels: whether the source may hold labels at all.
    """

    scans: dict[str, Scan]
    where: str
    orphans: tuple[str, ...] = ()
    class_names: dict[int, str] = field(default_factory=dict)
    has_labels: bool = True

    @property
    def labeled(self) -> set[str]:
        return {name for name, scan in self.scans.items() if scan.label is not None}


def find_folder(images: Path, labels: Path | None = None, flag: str = "--images") -> Found:
    """Find a folder of scans (one file or one DICOM folder each) and one of their labels, matched by name.

    Raises:
        InputError: if a folder cannot be used or a name stands for two files.
    """
    image_files = _files_by_stem(images, flag)
    label_files = {} if labels is None else _files_by_stem(labels, "--labels")
    # nnU-Net writes NAME_0000 for the first channel of NAME; scans numbered so have labels of the same names.
    channels = {name: re.fullmatch(r"(.+)_(\d{4})", name) for name in image_files}
    if all(channels.values()) and not image_files.keys() & label_files.keys():
        several = sorted(name for name, match in channels.items() if match[2] != "0000")
        if several and labels is not None:
            raise InputError(
                f"{images} holds more than the first channel ({', '.join(several)}); keep one image per scan, or "
                "use the nnunet command with --channel"
            )
        if not several:
            image_files = {channels[name][1]: path for name, path in image_files.items()}
    scans = {name: Scan(name, path, label_files.get(name)) for name, path in sorted(image_files.items())}
    where = str(images) if labels is None else f"{images} and {labels}"
    return Found(scans, where, tuple(sorted(label_files.keys() - scans.keys())), has_labels=labels is not None)


def find_dataset_json(folder: Path, channel: int | None = None) -> Found:
    """Find the scans of an nnU-Net or Decathlon dataset: dataset.json, imagesTr, labelsTr and, if there, imagesTs.

    The scans of imagesTs have no label; they are part of the cohort.

    Args:
        channel: of nnU-Net's NAME_0000, NAME_0001, … (Decathlon keeps the channels in one 4-D file).

    Raises:
        InputError: if the folder does not hold such a dataset.
    """
    described = _read_dataset_json(folder / "dataset.json")
    number = channel or 0
    scans: dict[str, Scan] = {}
    if isinstance(described.get("training"), list) and described["training"]:
        entries = [(entry.get("image"), entry.get("label")) if isinstance(entry, Mapping) else (entry, None)
                   for entry in described["training"]]  # fmt: skip
        entries += [(entry, None) for entry in described.get("test") or []]
        for image, label in entries:
            if not isinstance(image, str):
                raise InputError(f"{folder / 'dataset.json'}: an entry of 'training' names no image")
            path = _nnunet_channel(folder / image, number)
            if path is None:
                raise InputError(f"{folder / image} is missing; dataset.json names it")
            name = stem(Path(image)) or Path(image).name
            scans[name] = Scan(name, path, _existing(folder / label) if isinstance(label, str) else None)
    else:
        for part in ("imagesTr", "imagesTs"):
            for path in sorted((folder / part).glob("*")) if (folder / part).is_dir() else ():
                match = re.fullmatch(r"(.+)_(\d{4})", stem(path) or "")
                if match and int(match[2]) == number and not path.name.startswith("."):
                    scans[match[1]] = Scan(match[1], path, _label_beside(folder / "labelsTr", match[1]))
    if not scans:
        raise InputError(
            f"{folder} holds no scan of channel {number}; imagesTr must hold NAME_{number:04d} and an ending of "
            f"{', '.join(SUFFIXES)}"
        )
    return Found(dict(sorted(scans.items())), str(folder), class_names=_class_names(described.get("labels")))


def find_brats(folder: Path, modality: str) -> Found:
    """Find the scans of a BraTS release: a folder per scan, anywhere below, with a file per modality and a label.

    Raises:
        InputError: if there are none, or a scan lacks the modality.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; SRC is the one that holds the scans' folders")
    scans, lacking = {}, []
    for case in sorted(path for path in folder.rglob("*") if path.is_dir()):
        files = {stem(path): path for path in sorted(case.iterdir()) if path.is_file() and stem(path)}
        if not any(f"{case.name}{ending}" in files for endings in BRATS_MODALITIES.values() for ending in endings):
            continue
        image = next((files[key] for e in BRATS_MODALITIES[modality] if (key := f"{case.name}{e}") in files), None)
        label = next((files[key] for e in BRATS_LABEL if (key := f"{case.name}{e}") in files), None)
        if image is None:
            lacking.append(case.name)
        else:
            scans[case.name] = Scan(case.name, image, label)
    if lacking:
        raise InputError(f"{folder}: no {modality} image of {', '.join(lacking)}; choose another --modality")
    if not scans:
        raise InputError(f"{folder} holds no folder NAME with NAME_{modality}.nii.gz; is it a BraTS release?")
    names = {1: "necrotic core", 2: "edema", 4: "enhancing tumor"}
    return Found(dict(sorted(scans.items())), str(folder), class_names=names)


def find_public_la(folder: Path) -> Found:
    """Find the scans of the public LA copy, FOLDER/NAME/mri_norm2.h5.

    Raises:
        InputError: if there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; SRC is the one that holds NAME/{PUBLIC_FILE}")
    files = {path.parent.name: path for path in sorted(folder.glob(f"*/{PUBLIC_FILE}"))}
    if not files:
        raise InputError(f"{folder} holds no NAME/{PUBLIC_FILE}; point SRC at the folder that holds the scans' folders")
    scans = {name: Scan(name, path, path) for name, path in files.items()}
    return Found(scans, str(folder), class_names={1: "left atrium"})


def with_bounds(found: Found, table: Path) -> Found:
    """Return the scans with the bounds that a CSV table gives: NAME, x0, x1, y0, y1, z0, z1 (voxels, from 0).

    Raises:
        InputError: if the table cannot be read or names what is not there.
    """
    try:
        rows = [row for row in csv.reader(table.read_text(encoding="utf-8-sig").splitlines()) if any(row)]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--crop {table} is neither 'body', six numbers nor a readable CSV table ({error})") from None
    scans = dict(found.scans)
    for number, (name, *values) in enumerate(rows, start=1):
        name = name.strip()
        try:
            bounds = tuple(int(value) for value in values)
        except ValueError:
            if number == 1:  # a heading
                continue
            bounds = ()
        if len(bounds) != 6 or any(bounds[i] > bounds[i + 1] for i in (0, 2, 4)):
            raise InputError(f"{table}, line {number}: a line must be NAME, x0, x1, y0, y1, z0, z1 in whole voxels")
        if name not in scans:
            raise InputError(f"{table}, line {number}: there is no scan {name} in {found.where}")
        scans[name] = replace(scans[name], bounds=bounds)
    return replace(found, scans=scans)


def _files_by_stem(folder: Path, flag: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{flag} {folder} is not a folder")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):  # macOS leaves ._NAME.nii.gz beside NAME.nii.gz
            continue
        name = stem(path) if path.is_file() else path.name if is_dicom_folder(path) else None
        if name:
            files.setdefault(name, []).append(path)
    if not files:
        raise InputError(f"{flag} {folder} holds no image file ({', '.join(SUFFIXES)}) and no folder of a DICOM series")
    faults = [
        f"{' and '.join(map(str, paths))} have the same name {name}; keep one of them"
        for name, paths in files.items()
        if len(paths) > 1
    ]
    faults += [
        f"{paths[0]} has a name that a list cannot hold; rename it without comma, backslash and outer spaces"
        for name, paths in files.items()
        if "," in name or "\\" in name or name != name.strip()
    ]
    refuse(faults)
    return {name: paths[0] for name, paths in files.items()}


def _read_dataset_json(path: Path) -> Mapping[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; SRC is the folder with dataset.json, imagesTr and labelsTr") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); download it again") from None
    if not isinstance(described, Mapping):
        raise InputError(f"{path} does not describe a dataset; download it again")
    return described


def _class_names(labels: Any) -> dict[int, str]:
    """Return value → name from Decathlon's {"1": "name"} or nnU-Net's {"name": 1}; regions are left out."""
    names: dict[int, str] = {}
    for key, value in labels.items() if isinstance(labels, Mapping) else ():
        number, name = (key, value) if str(key).isdigit() else (value, key)
        if str(number).isdigit() and int(number) > 0:
            names[int(number)] = str(name)
    return names


def _nnunet_channel(path: Path, channel: int) -> Path | None:
    """Return the file itself, or that of one channel where NAME stands for NAME_0000, NAME_0001, …"""
    if path.is_file():
        return path
    name = stem(path) or path.name
    ending = path.name[len(name) :]
    return next(
        (
            candidate
            for suffix in dict.fromkeys([ending, *SUFFIXES])
            if (candidate := path.with_name(f"{name}_{channel:04d}{suffix}")).is_file()
        ),
        None,
    )


def _label_beside(folder: Path, name: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path} is missing; dataset.json names it")
    return path


def refuse(faults: Sequence[str]) -> None:
    """Raise one InputError that lists every fault, if there is one."""
    if len(faults) == 1:
        raise InputError(f"{faults[0]}; nothing was written")
    if faults:
        raise InputError("\n  ".join([f"{len(faults)} faults, nothing was written:", *faults]))
