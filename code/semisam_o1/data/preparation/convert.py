"""Scans of any source turned into a dataset folder: HDF5 files, lists, and how they were prepared.

A preparation reads every header first, then every voxel, and moves its files into place at the end:
one fault anywhere and nothing is written.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path

import numpy as np

from semisam_o1 import PROJECT_ROOT
from semisam_o1.core.atomic_io import write_json
from semisam_o1.core.errors import InputError
from semisam_o1.core.progress import progress
from semisam_o1.data.dataset.lists import FRACTIONS, LISTS, list_conflicts, read_lists, split, write_lists
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Grid, Volume, as_label, write_volume
from semisam_o1.data.preparation.formats import open_header, read_image, times
from semisam_o1.data.preparation.settings import FILE_NAME, Preparation, prepare, read_preparation
from semisam_o1.data.preparation.sources import Found, Scan, refuse
from semisam_o1.data.preparation.summary import Prepared, State, describe, fold, next_steps

STANDARD_LISTS = PROJECT_ROOT / "data"
STANDARD_LA = STANDARD_LISTS / "LA"
LA_SPACING = (0.625, 0.625, 0.625)  # mm; the challenge's, which the public copy does not state
VOXELS_PER_PROCESS = 30_000_000  # fewer are converted sooner than a process has started


def prepare_with_standard_lists(
    found: Found,
    destination: Path,
    settings: Preparation,
    standard: Path,
    *,
    source_spacing: Sequence[float] | None = None,
    overwrite: bool = False,
    workers: int | None = None,
) -> str:
    """Bring the scans of a public data set into a dataset folder with that data set's standard lists.

    Lists that the destination has are kept. Otherwise it gets the standard lists, without the names that are
    neither in the source nor in the destination; so a part of the scans makes a dataset too.

    Args:
        standard: the folder that holds the standard lists.
        source_spacing: mm, of scans that do not state theirs; None: they are left without.
        overwrite: replace files that differ, and the lists of any folder but the project's own.
        workers: processes; None chooses.

    Returns:
        A summary to print.

    Raises:
        InputError: naming every file that cannot be used; nothing was written then.
    """
    present = [name for name in LISTS if (destination / name).exists()]
    ours = destination.resolve() == standard.resolve()
    keep = bool(present) and (ours or not overwrite)
    wanted = {name: Dataset(destination if keep else standard).names(name) for name in (present if keep else LISTS)}
    available = {*found.scans, *(path.stem for path in (destination / "data").glob("*.h5"))}
    lists = {name: [scan for scan in wanted[name] if scan in available] for name in wanted}
    template = set(lists.get("train.txt", [])[:1])
    prepared = _convert(destination, found, settings, source_spacing, overwrite, workers, [], template)
    if not keep:
        write_lists(destination, lists)
    lines = describe(destination, prepared, lists, "kept" if keep else "written", settings)
    for name, listed in wanted.items():
        missing = [scan for scan in listed if scan not in available]
        if missing:
            lines += fold(f"missing of {name}, {len(missing)} of {len(listed)}: {', '.join(missing)}")
    unlisted = [name for name in found.scans if not any(name in listed for listed in wanted.values())]
    if unlisted:
        lines += fold(f"in no list: {', '.join(unlisted)}")
    if keep and lists != wanted:
        lines += fold(
            f"The lists of {destination} were kept and name scans that are not there; training stops at "
            "them. Bring the missing ones, or name another DST: a new folder gets lists of what there is."
        )
    elif lists.get("train.txt"):
        lines += next_steps(destination, prepared.values(), destination.resolve() == STANDARD_LA)
    return "\n".join(lines)


def prepare_scans(
    found: Found,
    template: str | None,
    destination: Path,
    settings: Preparation | None = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    list_files: Mapping[str, Path] | None = None,
    seed: int = 1337,
    overwrite: bool = False,
    workers: int | None = None,
) -> str:
    """Convert the scans that were found into a dataset folder.

    Args:
        found: images and labels by name.
        template: the scan that comes first in train.txt; None: the first name of the given train list.
        fractions: of all scans for train, val and test, drawn by chance; scans without a label train.
        list_files: 'train.txt' (and 'val.txt', 'test.txt') -> a file of names, instead of ``fractions``.
        seed: of the drawn split.
        overwrite: replace files and lists that differ.
        workers: processes; None chooses.

    Returns:
        A summary to print.

    Raises:
        InputError: naming every file that cannot be used; nothing was written then.
    """
    settings = settings or Preparation()
    scans, labeled = found.scans, found.labeled
    if not found.has_labels and template is not None:
        raise InputError(f"--template {template} needs a label; give --labels the folder that holds it")
    if labeled and template is None and not list_files:
        some = ", ".join(sorted(labeled)[:5])
        raise InputError(
            "--template is missing; name the scan whose label is to be spread over the others, of those with one: "
            f"{some}{', …' if len(labeled) > 5 else ''}"
        )
    if list_files:
        given, faults = read_lists(list_files, scans, labeled)
        template = template if template is not None or not labeled else given["train.txt"][0]
        lists = {name: sorted(given.get(name, []), key=lambda scan: scan != template) for name in LISTS}
        if template is not None and template not in lists["train.txt"]:
            faults.append(f"{list_files['train.txt']} does not name the template {template}; add it")
    else:
        lists, faults = split(scans, labeled, template, fractions, seed), []
    if template is not None and template not in labeled:
        what = "label of that name" if template in scans else "such image"
        faults.append(f"the template {template} cannot be used: there is no {what} in {found.where}")
    conflicts = list_conflicts(destination, lists)
    faults += [] if overwrite else conflicts
    prepared = _convert(destination, found, settings, None, overwrite, workers, faults, {template} - {None})
    unchanged = not conflicts and (destination / "train.txt").exists()
    write_lists(destination, lists)
    lines = describe(destination, prepared, lists, "kept" if unchanged else "written", settings)
    unlisted = [name for name in scans if not any(name in listed for listed in lists.values())]
    if unlisted:
        lines += fold(f"in no list: {', '.join(unlisted)}")
    if found.orphans:
        lines += fold(f"labels without an image, left out: {', '.join(found.orphans)}")
    return "\n".join([*lines, *next_steps(destination, prepared.values() if template else ())])


# Reading and checking


def load_scan(scan: Scan, settings: Preparation, source_spacing: Sequence[float] | None = None) -> Volume:
    """Read one scan as its source has it; the label's values are as in the file.

    Raises:
        InputError: if the image or the label cannot be used.
    """
    if scan.image.suffix == ".h5":
        volume = _PublicCopy(scan.image.parent.parent).load(scan.name)
        geometry = volume.geometry
        if source_spacing is not None and not geometry.known:
            geometry = Geometry(tuple(source_spacing), known=True)
        return replace(volume, geometry=geometry, source=str(scan.image.resolve()))
    image, geometry = read_image(scan.image, settings.channel)
    label = None
    if scan.label is not None:
        label, label_geometry = read_image(scan.label)
        fault = _mismatch(scan, Grid(image.shape, geometry), Grid(label.shape, label_geometry))
        if fault:
            raise InputError(fault)
        label = as_label(label, scan.label)
    return Volume(scan.name, image, label, geometry, source=str(scan.image.resolve()))


class _PublicCopy(Dataset):
    """The layout of the public LA copy: ROOT/NAME/mri_norm2.h5."""

    def path(self, name: str) -> Path:
        return self.root / name / "mri_norm2.h5"


def header_faults(scan: Scan, channel: int | None) -> list[str]:
    """Return what the headers of one scan show to be wrong; those of HDF5 and DICOM come with the voxels."""
    if scan.image.suffix == ".h5" or scan.image.is_dir():
        return []
    grids, faults = [], []
    for path, which in ((scan.image, channel), (scan.label, None)):
        if path is not None:
            try:
                reader, geometry = open_header(path, which)
                grids.append(Grid(reader.GetSize()[:3], geometry))
            except InputError as error:
                faults.append(str(error))
    if faults or len(grids) < 2:
        return faults
    fault = _mismatch(scan, *grids)
    return [fault] if fault else []


def _mismatch(scan: Scan, image: Grid, label: Grid) -> str | None:
    """Say how the grids of an image and its label differ, if they do."""
    if tuple(image.size) != tuple(label.size):
        return (
            f"{scan.image} has the size {times(image.size)} and its label {scan.label} {times(label.size)}; "
            "they must be the same"
        )
    alike = np.allclose(image.geometry.spacing, label.geometry.spacing, rtol=1e-3, atol=0) and np.allclose(
        image.geometry.direction, label.geometry.direction, atol=1e-3
    )
    if not alike:
        # Of the same size, but turned, flipped or scaled: voxel by voxel the label lies on something else.
        return (
            f"{scan.image} and its label {scan.label} differ in spacing or direction; resample the label "
            "onto the image, or give it the image's header if their voxels match"
        )
    return None


# Writing


@dataclass(frozen=True)
class _Job:
    """The conversion of one scan, as a process of its own can take it."""

    scan: Scan
    settings: Preparation
    destination: Path
    staging: Path
    overwrite: bool
    source_spacing: tuple[float, ...] | None
    template: bool


def _convert(
    destination: Path,
    found: Found,
    settings: Preparation,
    source_spacing: Sequence[float] | None,
    overwrite: bool,
    workers: int | None,
    faults: list[str],
    templates: Collection[str],
) -> dict[str, Prepared]:
    """Write every scan to ``destination/data`` and the settings beside it, or nothing if there is a fault.

    Args:
        faults: known already.
        templates: whose labels must not lose a class.

    Raises:
        InputError: naming every file that cannot be used or that would be overwritten.
    """
    faults = [*faults, *_settings_faults(destination, settings, overwrite)]
    faults += [fault for scan in found.scans.values() for fault in header_faults(scan, settings.channel)]
    refuse(faults)
    new_folder = not destination.exists()
    try:
        destination.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(prefix=".preparing_", dir=destination)
    except OSError as error:
        raise InputError(f"{destination} cannot be written to ({error}); name another DST") from None
    prepared = {}
    try:
        with staging as folder:
            jobs = [
                _Job(scan, settings, destination, Path(folder), overwrite,
                     None if source_spacing is None else tuple(source_spacing), name in templates)
                for name, scan in found.scans.items()
            ]  # fmt: skip
            for job, result in zip(jobs, _run(jobs, workers), strict=True):
                if isinstance(result, str):
                    faults.append(result)
                else:
                    prepared[job.scan.name] = result
            refuse(faults)
            (destination / "data").mkdir(exist_ok=True)
            for path in Path(folder).iterdir():
                path.replace(Dataset(destination).path(path.name.removesuffix(".h5")))
            _write_settings(destination, settings, found.class_names)
    finally:
        if new_folder:
            with contextlib.suppress(OSError):  # not empty: all went well
                destination.rmdir()
    return prepared


def _run(jobs: Sequence[_Job], workers: int | None) -> Iterator[Prepared | str]:
    """Convert scans one after the other, or in processes where they are large enough for it to be worth it."""
    if workers is None:
        workers = min(cpu_count() or 1, 8) if _voxels(jobs) > VOXELS_PER_PROCESS else 1
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from progress(map(_convert_one, jobs), "converting", len(jobs), "scan")
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:  # ITK's threads do not survive a fork
        yield from progress(pool.map(_convert_one, jobs), "converting", len(jobs), "scan")


def _voxels(jobs: Sequence[_Job]) -> float:
    """Estimate the number of voxels from the first scan's file."""
    scan = jobs[0].scan
    files = scan.image.iterdir() if scan.image.is_dir() else [scan.image]
    return len(jobs) * sum(file.stat().st_size for file in files)


def _convert_one(job: _Job) -> Prepared | str:
    """Read, prepare and stage one scan; return what became of it, or what is wrong with it."""
    scan, dataset = job.scan, Dataset(job.destination)
    try:
        read = load_scan(scan, job.settings, job.source_spacing)
        try:
            volume = prepare(scan.name, read.image, read.label, read.grid, job.settings, scan.bounds, read.source)
        except ValueError as error:
            raise InputError(f"{scan.image} {error}; export it again or take it out") from None
    except InputError as error:
        return str(error)
    before, after = State.of(read), State.of(volume)
    lost = before.lost(after, job.settings)
    if lost and job.template:
        return (
            f"{scan.label}: class {', '.join(map(str, lost))} of the template is gone after cropping and resampling; "
            "choose a finer --spacing or a larger --margin"
        )
    kept = _holds(dataset, volume)
    if dataset.path(scan.name).exists() and not kept and not job.overwrite:
        return f"{dataset.path(scan.name)} exists and differs; --overwrite replaces it"
    if not kept:
        path = job.staging / f"{scan.name}.h5"
        write_volume(path, volume.image, volume.label, volume.geometry, volume.source, volume.original)
    return Prepared(before, after, kept, lost)


def _holds(dataset: Dataset, volume: Volume) -> bool:
    """Return whether the dataset has this volume already, value for value."""
    try:
        there = dataset.load(volume.name)
    except InputError:
        return False
    if (there.label is None) != (volume.label is None) or there.grid != volume.grid:
        return False
    if there.original != volume.original:
        return False
    return np.array_equal(there.image, volume.image) and (
        volume.label is None or np.array_equal(there.label, volume.label)
    )


def _settings_faults(destination: Path, settings: Preparation, overwrite: bool) -> list[str]:
    """Return a sentence where the scans of the destination were prepared with other settings."""
    if overwrite:
        return []
    there = read_preparation(destination)
    if there is None or there == settings:
        return []
    now, then = settings.to_json(), there.to_json()
    changed = ", ".join(f"{key} {then[key]}" for key in now if now[key] != then[key])
    return [
        f"{destination / FILE_NAME}: the scans there were prepared otherwise ({changed}); --overwrite replaces them"
    ]


def _write_settings(destination: Path, settings: Preparation, class_names: Mapping[int, str]) -> None:
    names = {}
    for value, name in class_names.items():
        becomes = settings.labels.get(value, value if settings.other_labels is None else settings.other_labels)
        if becomes:
            names[str(becomes)] = f"{names[str(becomes)]} + {name}" if str(becomes) in names else name
    content = {**settings.to_json(), "class_names": names}
    write_json(destination / FILE_NAME, content)
