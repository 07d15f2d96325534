"""Medical formats and the public LA copy, turned into a dataset folder (HDF5 files and lists).

A preparation reads every header first, then every voxel, and moves its files into place at the end:
one fault anywhere and nothing is written.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import tempfile
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from .formats import SUFFIXES, normalise, open_header, read_image, stem, times
from .volumes import Dataset, Volume, as_label, write_volume

LISTS = ("train.txt", "val.txt", "test.txt")
FRACTIONS = (0.7, 0.1, 0.2)  # of all scans, in the order of LISTS
STANDARD_LA = Path(__file__).resolve().parents[3] / "data" / "LA"


class _PublicCopy(Dataset):
    """The layout of the public LA copy: ROOT/NAME/mri_norm2.h5."""

    def path(self, name: str) -> Path:
        return self.root / name / "mri_norm2.h5"


@dataclass(frozen=True)
class _Pair:
    """The files of one scan."""

    image: Path
    label: Path | None


@dataclass(frozen=True)
class _Converted:
    """What the summary tells of one scan."""

    shape: tuple[int, ...]  # (W, H, D)
    spacing: tuple[float, ...] | None  # mm, None where the source does not state it
    label_values: tuple[int, ...] | None  # None where there is no label
    kept: bool  # the file was there already, with the same content


def prepare_la(source: Path, destination: Path = STANDARD_LA, *, overwrite: bool = False) -> str:
    """Bring the public LA copy into a dataset folder, values unchanged.

    Lists that the destination has are kept. Otherwise it gets the standard lists, without the names that are
    neither in the source nor in the destination; so a part of the scans makes a dataset too.

    Args:
        source: folder with NAME/mri_norm2.h5, each with 'image' and 'label' (W, H, D).
        overwrite: replace files that differ, and the lists of any folder but the project's own.

    Returns:
        A summary to print.

    Raises:
        InputError: naming every file that cannot be used; nothing was written then.
    """
    reader = _PublicCopy(source)
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; SRC is the one that holds NAME/mri_norm2.h5")
    names = sorted(path.parent.name for path in source.glob("*/mri_norm2.h5"))
    if not names:
        raise InputError(f"{source} holds no NAME/mri_norm2.h5; point SRC at the folder that holds the scans' folders")
    dataset = Dataset(destination)
    present = [name for name in LISTS if (destination / name).exists()]
    ours = destination.resolve() == STANDARD_LA
    keep = bool(present) and (ours or not overwrite)
    wanted = {name: (dataset if keep else Dataset(STANDARD_LA)).names(name) for name in (present if keep else LISTS)}
    available = {*names, *(path.stem for path in (destination / "data").glob("*.h5"))}
    lists = {name: [scan for scan in wanted[name] if scan in available] for name in wanted}

    def read(name: str) -> Volume:
        volume = reader.load(name)
        if not np.isfinite(volume.image).all() or volume.image.min() == volume.image.max():
            raise InputError(f"{reader.path(name)} is constant or holds values that are not finite; copy it again")
        return volume

    scans = _convert(destination, names, read, lambda name: str(reader.path(name).resolve()), overwrite)
    if not keep:
        _write_lists(destination, lists)
    lines = _describe(destination, scans, lists, "kept" if keep else "written")
    for name, listed in wanted.items():
        missing = [scan for scan in listed if scan not in available]
        if missing:
            lines.append(f"missing of {name}, {len(missing)} of {len(listed)}: {', '.join(missing)}")
    unlisted = [name for name in names if not any(name in listed for listed in wanted.values())]
    if unlisted:
        lines.append(f"in no list: {', '.join(unlisted)}")
    if keep and lists != wanted:
        lines.append(
            f"The lists of {destination} were kept and name scans that are not there; training stops at "
            "them. Bring the missing ones, or name another DST: a new folder gets lists of what there is."
        )
    elif lists.get("train.txt"):
        lines.append(_training_command(destination, scans.values()))
    return _wrap(lines)


def prepare_nifti(
    images: Path,
    labels: Path | None,
    template: str | None,
    destination: Path,
    *,
    fractions: Sequence[float] = FRACTIONS,
    list_files: Mapping[str, Path] | None = None,
    seed: int = 1337,
    overwrite: bool = False,
) -> str:
    """Convert a folder of scans, and one of their labels, into a dataset folder.

    Args:
        images: one file per scan, NAME or NAME_0000 and an ending of SUFFIXES.
        labels: one file per labelled scan, of the same name; None where no scan has one yet.
        template: the scan that comes first in train.txt; None: the first name of the given train list.
        fractions: of all scans for train, val and test, drawn by chance; scans without a label train.
        list_files: 'train.txt' (and 'val.txt', 'test.txt') -> a file of names, instead of ``fractions``.
        seed: of the drawn split.
        overwrite: replace files and lists that differ.

    Returns:
        A summary to print.

    Raises:
        InputError: naming every file that cannot be used; nothing was written then.
    """
    pairs, orphans = _find_pairs(images, labels)
    if labels is None and template is not None:
        raise InputError(f"--template {template} needs a label; give --labels the folder that holds it")
    if labels is not None and template is None and not list_files:
        raise InputError("--template is missing; name the scan whose label is to be spread over the others")
    labelled = {name for name, pair in pairs.items() if pair.label is not None}
    if list_files:
        given, faults = _read_lists(list_files, pairs, labelled)
        template = template if template is not None or labels is None else given["train.txt"][0]
        lists = {name: sorted(given.get(name, []), key=lambda scan: scan != template) for name in LISTS}
        if template is not None and template not in lists["train.txt"]:
            faults.append(f"{list_files['train.txt']} does not name the template {template}; add it")
    else:
        lists, faults = split(pairs, labelled, template, fractions, seed), []
    if template is not None and template not in labelled:
        where = f"{labels} holds no label of that name" if template in pairs else f"{images} holds no such image"
        faults.append(f"the template {template} cannot be used: {where}")
    faults += [fault for name in pairs for fault in _header_faults(name, pairs[name])]
    conflicts = _list_conflicts(destination, lists)
    faults += [] if overwrite else conflicts
    _refuse(faults)

    scans = _convert(
        destination, list(pairs), lambda name: _read_pair(name, pairs[name]),
        lambda name: str(pairs[name].image.resolve()), overwrite,
    )  # fmt: skip
    unchanged = not conflicts and (destination / "train.txt").exists()
    _write_lists(destination, lists)
    lines = _describe(destination, scans, lists, "kept" if unchanged else "written")
    unlisted = [name for name in pairs if not any(name in listed for listed in lists.values())]
    if unlisted:
        lines.append(f"in no list: {', '.join(unlisted)}")
    if orphans:
        lines.append(f"labels without an image, left out: {', '.join(orphans)}")
    if template is not None:
        lines.append(_training_command(destination, scans.values()))
    else:
        lines.append(
            "No scan has a label yet. Label a typical one, then come back with --labels, --template and --overwrite."
        )
    return _wrap(lines)


def split(
    names: Iterable[str],
    labelled: Collection[str],
    template: str | None,
    fractions: Sequence[float],
    seed: int,
) -> dict[str, list[str]]:
    """Draw train, val and test: the template first in train, no scan without a label in val or test.

    Args:
        names: all scans; their order does not matter.
        labelled: those with a label.
        fractions: of all scans for train, val and test; they sum to 1.

    Returns:
        The names of each of LISTS; in train the labelled ones come first.

    Raises:
        InputError: if the fractions are not parts of a whole.
    """
    if min(fractions) < 0 or fractions[0] == 0 or abs(sum(fractions) - 1) > 1e-3:
        given = " ".join(f"{part:g}" for part in fractions)
        raise InputError(f"--split {given} must be three parts of 1, the first above 0")
    names = sorted(names)
    free = [name for name in names if name in labelled and name != template]
    wanted = [max(1, round(part * len(names))) if part > 0 else 0 for part in fractions[1:]]
    # Something must be left to spread the template's label over.
    limit = len(free) if len(free) < len(names) - 1 else max(len(free) - 1, 0)
    if sum(wanted) > limit:  # one to choose the best weights by comes before any to test on
        val_count = min(limit, max(int(wanted[0] > 0), limit * wanted[0] // sum(wanted)))
        wanted = [val_count, min(wanted[1], limit - val_count)]
    val_count, test_count = wanted
    drawn = np.random.default_rng(seed).permutation(free).tolist()
    held_out = set(drawn[: val_count + test_count])
    train = [name for name in names if name not in held_out]
    train.sort(key=lambda name: (name != template, name not in labelled))
    return dict(zip(LISTS, (train, sorted(drawn[:val_count]), sorted(held_out - set(drawn[:val_count]))), strict=True))


# Finding and checking


def _find_pairs(images: Path, labels: Path | None) -> tuple[dict[str, _Pair], list[str]]:
    """Return the scans, sorted by name, and the names of labels that have no image.

    Raises:
        InputError: if a folder cannot be used or a name stands for two files.
    """
    image_files = _files_by_stem(images, "--images")
    label_files = {} if labels is None else _files_by_stem(labels, "--labels")
    # nnU-Net writes NAME_0000 for the first channel of NAME; scans numbered so have labels of the same names.
    channels = {name: re.fullmatch(r"(.+)_(\d{4})", name) for name in image_files}
    if all(channels.values()) and not image_files.keys() & label_files.keys():
        several = sorted(name for name, match in channels.items() if match[2] != "0000")
        if several and labels is not None:
            raise InputError(
                f"{images} holds more than the first channel ({', '.join(several)}); keep one image per scan"
            )
        if not several:
            image_files = {channels[name][1]: path for name, path in image_files.items()}
    pairs = {name: _Pair(path, label_files.get(name)) for name, path in sorted(image_files.items())}
    return pairs, sorted(label_files.keys() - pairs.keys())


def _files_by_stem(folder: Path, flag: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{flag} {folder} is not a folder")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if stem(path) and not path.name.startswith("."):  # macOS leaves ._NAME.nii.gz beside NAME.nii.gz
            files.setdefault(stem(path), []).append(path)
    if not files:
        raise InputError(f"{flag} {folder} holds no image file ({', '.join(SUFFIXES)})")
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
    _refuse(faults)
    return {name: paths[0] for name, paths in files.items()}


def _header_faults(name: str, pair: _Pair) -> list[str]:
    """Return what the headers of one scan show to be wrong."""
    opened, faults = [], []
    for path in (pair.image, pair.label):
        if path is not None:
            try:
                opened.append(open_header(path))
            except InputError as error:
                faults.append(str(error))
    if faults or pair.label is None:
        return faults
    (image, image_geometry), (label, label_geometry) = opened
    sizes = image.GetSize()[:3], label.GetSize()[:3]
    if sizes[0] != sizes[1]:
        return [
            f"{pair.image} has the size {times(sizes[0])} and its label {pair.label} {times(sizes[1])}; "
            "they must be the same"
        ]
    alike = np.allclose(image_geometry.spacing, label_geometry.spacing, rtol=1e-3, atol=0) and np.allclose(
        image_geometry.direction, label_geometry.direction, atol=1e-3
    )
    if not alike:
        # Of the same size, but turned, flipped or scaled: voxel by voxel the label lies on something else.
        return [
            f"{pair.image} and its label {pair.label} differ in spacing or direction; resample the label "
            "onto the image, or give it the image's header if their voxels match"
        ]
    return []


def _read_pair(name: str, pair: _Pair) -> Volume:
    """Read and normalise one scan.

    Raises:
        InputError: if the image or the label cannot be used.
    """
    voxels, geometry = read_image(pair.image)
    try:
        image = normalise(voxels)
    except ValueError as error:
        raise InputError(f"{pair.image} {error}; export it again or take it out") from None
    label = None if pair.label is None else as_label(read_image(pair.label)[0], pair.label)
    return Volume(name, image, label, geometry)


def _read_lists(
    list_files: Mapping[str, Path], names: Collection[str], labelled: Collection[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the names of each given list, and what is wrong with them."""
    lists = {}
    for key, path in list_files.items():
        if not path.is_file():
            raise InputError(f"{path} is missing; --{key.removesuffix('.txt')} takes a file with one name per line")
        lists[key] = Dataset(path.parent).names(path.name)
    faults, seen = [], {}
    for key, listed in lists.items():
        path = list_files[key]
        unknown = [name for name in listed if name not in names]
        if unknown:
            faults.append(f"{path} names {', '.join(unknown)}, of which there is no image; take the names out")
        if key != "train.txt":
            bare = [name for name in listed if name in names and name not in labelled]
            if bare:
                faults.append(f"{path} names {', '.join(bare)}, which have no label to score with; take them out")
        for name in listed:
            if name in seen:
                faults.append(f"{seen[name]} and {path} both name {name}; keep it in one of them")
            seen.setdefault(name, path)
    return lists, faults


def _list_conflicts(destination: Path, lists: Mapping[str, list[str]]) -> list[str]:
    """Return a sentence for every list of the destination that says something else."""
    faults = []
    for name, listed in lists.items():
        if (destination / name).exists():
            try:
                same = Dataset(destination).names(name) == listed
            except InputError:
                same = False
            if not same:
                faults.append(f"{destination / name} exists and names other scans; --overwrite replaces it")
    return faults


def _refuse(faults: list[str]) -> None:
    """Raise one InputError that lists every fault, if there is one."""
    if len(faults) == 1:
        raise InputError(f"{faults[0]}; nothing was written")
    if faults:
        raise InputError("\n  ".join([f"{len(faults)} faults, nothing was written:", *faults]))


# Writing


def _convert(
    destination: Path,
    names: Sequence[str],
    read: Callable[[str], Volume],
    source_of: Callable[[str], str],
    overwrite: bool,
) -> dict[str, _Converted]:
    """Write every scan to ``destination/data``, or none of them if one has a fault.

    Raises:
        InputError: naming every file that cannot be used or that would be overwritten.
    """
    dataset = Dataset(destination)
    new_folder = not destination.exists()
    try:
        destination.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(prefix=".preparing_", dir=destination)
    except OSError as error:
        raise InputError(f"{destination} cannot be written to ({error}); name another DST") from None
    scans, faults = {}, []
    try:
        with staging as folder:
            for name in tqdm(names, desc="converting", unit="scan", disable=None):
                try:
                    volume = read(name)
                except InputError as error:
                    faults.append(str(error))
                    continue
                kept = _holds(dataset, volume)
                if dataset.path(name).exists() and not kept and not overwrite:
                    faults.append(f"{dataset.path(name)} exists and differs; --overwrite replaces it")
                if not faults and not kept:
                    path = Path(folder) / f"{name}.h5"
                    write_volume(path, volume.image, volume.label, volume.geometry, source_of(name))
                scans[name] = _summarise(volume, kept)
            _refuse(faults)
            (destination / "data").mkdir(exist_ok=True)
            for path in Path(folder).iterdir():
                path.replace(dataset.path(path.name.removesuffix(".h5")))
    finally:
        if new_folder:
            with contextlib.suppress(OSError):  # not empty: all went well
                destination.rmdir()
    return scans


def _holds(dataset: Dataset, volume: Volume) -> bool:
    """Return whether the dataset has this volume already, value for value."""
    try:
        there = dataset.load(volume.name)
    except InputError:
        return False
    if (there.label is None) != (volume.label is None) or there.geometry != volume.geometry:
        return False
    return np.array_equal(there.image, volume.image) and (
        volume.label is None or np.array_equal(there.label, volume.label)
    )


def _summarise(volume: Volume, kept: bool) -> _Converted:
    values = None if volume.label is None else tuple(np.unique(volume.label).tolist())
    spacing = volume.geometry.spacing if volume.geometry.known else None
    return _Converted(volume.image.shape, spacing, values, kept)


def _write_lists(destination: Path, lists: Mapping[str, list[str]]) -> None:
    """Write the lists, each whole or not at all; one without names is not there afterwards."""
    for name, listed in lists.items():
        path = destination / name
        if listed:
            partial = path.with_name(path.name + ".partial")
            partial.write_text("".join(f"{scan}\n" for scan in listed), encoding="utf-8")
            partial.replace(path)
        else:
            path.unlink(missing_ok=True)


# The summary


def _describe(
    destination: Path, scans: Mapping[str, _Converted], lists: Mapping[str, list[str]], done: str
) -> list[str]:
    """Return what was written, line by line."""
    found = list(scans.values())
    labelled = [scan for scan in found if scan.label_values is not None]
    kept = sum(scan.kept for scan in found)
    spacings = [scan.spacing for scan in found if scan.spacing is not None]
    lines = [
        f"{destination}: {len(found)} scans ({len(found) - kept} written, {kept} kept), {len(labelled)} with a label",
        f"lists {done}: " + ", ".join(f"{name} {len(listed)}" for name, listed in lists.items() if listed),
        f"size: {_ranges([scan.shape for scan in found])} voxels",
        f"spacing: {_ranges(spacings)} mm" if spacings else "spacing: not stated",
        f"label values: {', '.join(map(str, _label_values(found))) or 'none'}",
    ]
    empty = [name for name, listed in lists.items() if not listed]
    if empty:
        lines.insert(2, f"not {done}, no scan is left for it: {', '.join(empty)}")
    return lines


def _ranges(triples: Sequence[Sequence[float]]) -> str:
    texts = []
    for values in zip(*triples, strict=True):
        low, high = f"{min(values):.4g}", f"{max(values):.4g}"
        texts.append(low if low == high else f"{low}–{high}")
    return times(texts)


def _label_values(scans: Iterable[_Converted]) -> list[int]:
    return sorted({value for scan in scans for value in scan.label_values or ()})


def _training_command(destination: Path, scans: Iterable[_Converted]) -> str:
    """Return the command that trains on what was prepared."""
    values = [value for value in _label_values(scans) if value > 0]
    command = f"python code/train_SemiSAM_O1.py --root_path {shlex.quote(str(destination.resolve()))}"
    if destination.resolve() != STANDARD_LA:
        command += f" --exp {shlex.quote(f'SemiSAM_O1/{destination.resolve().name}')}"
    if values == list(range(1, len(values) + 1)):
        return f"next:\n  {command}" + (f" --num_classes {len(values) + 1}" if len(values) > 1 else "")
    return f"next (the label values have gaps, so all above 0 count as one class):\n  {command} --binary_label"


def _wrap(lines: Iterable[str]) -> str:
    """Join the lines, folding long ones; a command keeps its own line."""
    folded = []
    for line in lines:
        first, *rest = line.split("\n")
        folded += [
            textwrap.fill(first, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False),
            *rest,
        ]
    return "\n".join(folded)
