"""The scans in a folder: image files, or a folder per DICOM series; everything else is skipped for a stated reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from semisam_o1.core.errors import InputError, listed, raise_faults
from semisam_o1.data.preparation.formats import SEGMENTATION, SUFFIXES, is_dicom, is_dicom_folder, stem

MAX_NAME = 200  # bytes; file systems take 255, and a dataset adds endings


@dataclass
class Listing:
    """What a folder holds."""

    files: dict[str, Path] = field(default_factory=dict)  # image files and DICOM folders by name, without ending
    skipped: dict[str, list[str]] = field(default_factory=dict)  # reason → names of files and folders


def list_scans(folder: Path, segmentations: bool | None = None) -> Listing:
    """Return the scans in a folder.

    A folder that holds DICOM files is one scan. It must hold no others: which of the two was meant would be a guess.

    Args:
        segmentations: True: of two files of one name the segmentation of 3D Slicer counts; False: no segmentations.

    Raises:
        InputError: if the folder holds no scan, DICOM files beside other scans, or names that cannot be used.
    """
    listing, faults, loose = Listing(), [], []
    for path in entries(folder, "*"):
        name, reason = _name_of(path, segmentations)
        if reason == LOOSE:
            loose.append(path.name)
        elif reason:
            listing.skipped.setdefault(reason, []).append(path.name)
        elif name in listing.files and not (segmentations and is_segmentation_file(path)):
            faults.append(f"{listing.files[name]} and {path} have the same name {name}; keep one of them")
        elif fault := name_fault(path, name):
            faults.append(fault)
        else:
            listing.files[name] = path
    if loose and listing.files:
        faults.append(
            f"{folder} holds {len(loose)} DICOM files ({listed(loose, 1)}) beside other scans "
            f"({listed(listing.files, 1)}); move the DICOM files of each series into a folder of its own"
        )
    raise_faults(faults, "faults, nothing was written")
    if loose:
        return Listing({folder.resolve().name: folder}, listing.skipped)
    if not listing.files:
        raise InputError(f"{folder} holds no image file ({', '.join(SUFFIXES)}) and no folder of a DICOM series")
    return listing


LOOSE = "DICOM files"


def _name_of(path: Path, segmentations: bool | None) -> tuple[str, str]:
    """Return the name of a scan and '', or '' and the reason why a path is none."""
    if path.name.startswith("."):  # macOS leaves ._NAME.nii.gz beside NAME.nii.gz
        return "", "hidden"
    if path.is_dir():
        return (path.name, "") if is_dicom_folder(path) else ("", "folders without a DICOM series")
    if segmentations is False and is_segmentation_file(path):
        return "", "segmentations among the images"
    if name := stem(path):
        return name, ""
    return "", LOOSE if is_dicom(path) else "of other formats"


def is_segmentation_file(path: Path) -> bool:
    """Return whether a file has the ending of 3D Slicer's segmentations."""
    return path.name.lower().endswith(SEGMENTATION)


def name_fault(path: Path, name: str) -> str | None:
    """Return a sentence where a name cannot stand in a list, or is too long for the files of a dataset."""
    if "," in name or "\\" in name or name != name.strip():
        return f"{path} has a name that a list cannot hold; rename it without comma, backslash, outer space"
    if len(name.encode(errors="replace")) > MAX_NAME:
        return f"{path} has a name of more than {MAX_NAME} bytes; rename it, since a dataset adds endings to it"
    return None


def entries(folder: Path, pattern: str) -> list[Path]:
    """Return what matches in a folder, sorted."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the one that holds the scans")
    return sorted(folder.glob(pattern))
