"""The files that a command is to write, checked before anything is computed: no scan or mask is ever written onto."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import SimpleITK as sitk

from semisam_o1.core.errors import InputError, listed, raise_faults
from semisam_o1.data.dataset.volumes import Dataset

MAX_NAME_BYTES = 255
# Where the formats keep a remark, and the one that every image written by this package carries.
REMARK_KEY, REMARK = "ITK_FileNotes", "written by SemiSAM-O1"
PARTIAL = "partial_"  # what a file's name begins with until it is complete


def source_files(dataset: Dataset) -> list[Path]:
    """Return the files of images and masks that a dataset was prepared from, as far as they are known."""
    sources: list[str | None] = []
    for path in dataset.root.glob("data/*.h5"):
        with contextlib.suppress(InputError):
            header = dataset.header(path.stem)
            sources += [header.source, header.mask]
    return [Path(source) for source in sources if source]


def check_outputs(
    outputs: Mapping[str, Sequence[Path]],
    flag: str,
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
    skip_existing: bool = False,
) -> list[str]:
    """Check that the files of every scan can be written to the folder that a flag names.

    Only images that this package wrote are ever replaced, and never one of ``inputs``, whatever the flags.

    Args:
        outputs: name of a scan → its files, all in one folder.
        inputs: what is read, and the scans that the data were prepared from.
        overwrite: replace existing files.
        skip_existing: leave out scans all of whose files exist.

    Returns:
        The names of the scans to write.

    Raises:
        InputError: if the folder cannot be written to, two scans share a file, or a file must not be replaced.
    """
    paths = [path for files in outputs.values() for path in files]
    if not paths:
        return []
    check_folder(paths[0].parent, flag)
    _check_names(outputs, flag)
    existing = [path for path in paths if os.path.lexists(path)]
    read = _identities(inputs)
    touched = [*existing, *(path.with_name(f"{PARTIAL}{path.name}") for path in paths)]
    if own := [str(path) for path in touched if _identities([path]) & read]:
        whose = "of the scans and masks that were given or prepared; no flag replaces those"
        raise InputError(f"{flag}: {listed(own)} would be written onto, {whose}: name another folder")
    if foreign := [str(path) for path in existing if not _written_here(path)]:
        whose = f"{listed(foreign)}, not written by this program, so nothing replaces it"
        raise InputError(f"{flag}: the folder holds {whose}; move it away, or name another folder")
    if existing and not (overwrite or skip_existing):
        remedy = f"name another {flag}, or --overwrite"
        raise InputError(f"{paths[0].parent} already holds {listed(path.name for path in existing)}; {remedy}")
    if overwrite or not skip_existing:
        return list(outputs)
    there = set(existing)
    return [name for name, files in outputs.items() if not there.issuperset(files)]


def check_folder(folder: Path, flag: str) -> None:
    """Check that files can be made in a folder, which may be missing; nothing is left there.

    Raises:
        InputError: naming the flag and the reason.
    """
    try:
        existing = next(parent for parent in (folder, *folder.absolute().parents) if os.path.lexists(parent))
        if not existing.is_dir():
            raise InputError(f"{flag} {folder}: {existing} is a file; name a folder")
        with tempfile.TemporaryDirectory(prefix=".writable_", dir=existing) as probe:
            (Path(probe) / folder.name).touch()  # a name that the file system can hold
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{flag} {folder} cannot be written to ({reason}); name another folder") from None


def check_text_file(path: Path, beginning: str, flag: str) -> None:
    """Refuse to replace a text file of that name that does not begin as those of this package do."""
    with contextlib.suppress(OSError, ValueError):
        if path.exists() and not path.read_text(encoding="utf-8").startswith(beginning):
            raise InputError(f"{flag}: {path} was written by something else; move it away")


def _check_names(outputs: Mapping[str, Sequence[Path]], flag: str) -> None:
    """Refuse names that are too long, and files that two scans or two of their maps would share."""
    counts = Counter(path for files in outputs.values() for path in files)
    faults = []
    for path, count in counts.items():
        if count > 1:
            scans = " and ".join(name for name, files in outputs.items() if path in files)
            faults.append(f"{scans} would both be written to {path.name}; rename a scan, or give them in two calls")
        if len(os.fsencode(f"{PARTIAL}{path.name}")) > MAX_NAME_BYTES:
            faults.append(f"{path.name} is longer than a file's name can be; give the scan a shorter name")
    raise_faults(faults, f"files of {flag} cannot be written")


def _identities(paths: Iterable[Path]) -> set[object]:
    """Return what tells files apart however they are spelled: the resolved path, and device and inode where it exists.

    The latter are those of every link to a file, and of its name in any case where the file system ignores case.
    """
    found: set[object] = set()
    for path in paths:
        found.add(os.path.realpath(path))
        if path.exists():
            status = path.stat()
            found.add((status.st_dev, status.st_ino))
    return found


def _written_here(path: Path) -> bool:
    """Return whether an image carries the remark of this package."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return False
    return reader.HasMetaDataKey(REMARK_KEY) and reader.GetMetaData(REMARK_KEY).startswith(REMARK)
