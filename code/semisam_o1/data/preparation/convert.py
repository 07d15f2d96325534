"""Scans converted into HDF5 volumes and settings of a dataset folder; a fault anywhere and nothing is written."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from semisam_o1.core.atomic_io import write_json
from semisam_o1.core.errors import InputError, raise_faults
from semisam_o1.core.flags import AT_LEAST_0, option
from semisam_o1.core.memory import available_cores
from semisam_o1.core.terminal import progress
from semisam_o1.data.dataset.volumes import Dataset, Volume, write_volume
from semisam_o1.data.preparation.scans import header_faults, header_warnings, read_and_prepare
from semisam_o1.data.preparation.settings import FILE_NAME, MAX_CLASSES, Classes, Preparation, read_preparation
from semisam_o1.data.preparation.sources import FoundScans, ScanFiles
from semisam_o1.data.preparation.sparse import drawn_slices
from semisam_o1.data.preparation.summary import PreparedScan, ScanSummary, label_values

BYTES_PER_PROCESS = 30_000_000  # of image files; fewer are converted sooner than a process has started


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Where and how scans are converted."""

    destination: Path
    preparation: Preparation
    source_spacing: tuple[float, ...] | None = None  # mm, of scans that do not state theirs
    workers: int | None = option(None, "processes (default: by the size of the scans)", AT_LEAST_0, metavar="N")
    overwrite: bool = option(False, "replace files and lists that differ")
    class_names: str | None = option(
        None, "names of the classes 1, 2, …, where the masks do not state them", metavar="NAME,NAME"
    )


def convert(
    found: FoundScans, conversion: Conversion, templates: Collection[str], faults: Sequence[str] = ()
) -> dict[str, PreparedScan]:
    """Write every scan to ``destination/data`` and the settings beside it, or nothing if there is a fault.

    Args:
        templates: names of the scans whose labels must not lose a class.
        faults: sentences on what is wrong already.

    Raises:
        InputError: naming every file that cannot be used or that would be overwritten.
    """
    root, scans = conversion.destination, list(found.scans.values())
    headers = [fault for scan in scans for fault in header_faults(scan, conversion.preparation.channel)]
    _refuse([*faults, *_settings_faults(conversion), *headers])
    try:  # beside the destination, where it is yet to be made
        existing = next(folder for folder in (root, *root.parents) if folder.exists())
        staging = tempfile.TemporaryDirectory(prefix=".preparing_", dir=existing)
    except OSError as error:
        raise InputError(f"{root} cannot be written to ({error}); choose another folder") from None
    with staging as folder:
        convert_one = functools.partial(_convert_scan, conversion, Path(folder), templates)
        results = dict(zip(found.scans, _run(convert_one, scans, conversion.workers), strict=True))
        _refuse([result for result in results.values() if isinstance(result, str)])
        _refuse(_label_map_faults(conversion.preparation, results.values()))
        (root / "data").mkdir(parents=True, exist_ok=True)
        for path in Path(folder).iterdir():
            path.replace(root / "data" / path.name)
        write_json(
            root / FILE_NAME, conversion.preparation.to_json() | _classes(conversion, found, results.values()).to_json()
        )
    return results


def _refuse(faults: Sequence[str]) -> None:
    one = [f"{fault}; nothing was written" for fault in faults[:1]]
    raise_faults(faults if len(faults) > 1 else one, "faults, nothing was written")


def _run(
    convert_one: Callable[[ScanFiles], PreparedScan | str], scans: Sequence[ScanFiles], workers: int | None
) -> Iterator[PreparedScan | str]:
    """Convert scans one after the other, or in processes where they are large enough for it to be worth it."""
    first = scans[0].image
    size = len(scans) * sum(file.stat().st_size for file in (first.iterdir() if first.is_dir() else [first]))
    usual = min(available_cores(), 8) if size > BYTES_PER_PROCESS else 1
    workers = min(usual if workers is None else workers, len(scans))
    with contextlib.ExitStack() as stack:
        run = map
        if workers > 1:  # ITK's threads do not survive a fork
            run = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn"))).map
        yield from progress(run(convert_one, scans), "converting", len(scans), "scan")


def _convert_scan(
    conversion: Conversion, staging: Path, templates: Collection[str], scan: ScanFiles
) -> PreparedScan | str:
    """Read, prepare and stage one scan; return a summary of it, or what is wrong with it."""
    settings, dataset = conversion.preparation, Dataset(conversion.destination)
    try:
        original, volume = read_and_prepare(scan, settings, conversion.source_spacing)
    except InputError as error:
        return str(error)
    before, after = ScanSummary.of(original), ScanSummary.of(volume)
    if scan.name in templates and scan.label is not None and not any(before.label_values or ()):
        return f"{scan.label} shows no foreground, but is the template's label; draw it, or name another template"
    expected = {settings.class_of(value) for value in before.label_values or ()}
    lost = ", ".join(map(str, sorted(expected - {0, *(after.label_values or ())})))
    if lost and scan.name in templates:
        gone = f"{scan.label}: class {lost} of the template is gone after cropping and resampling"
        return f"{gone}; choose a finer spacing or a larger margin"
    unchanged, path = _is_stored(dataset, volume), dataset.path(scan.name)
    if not unchanged:
        if path.exists() and not conversion.overwrite:
            return f"{path} exists and differs; overwrite it, or choose another folder"
        write_volume(staging / path.name, volume)
    between = (settings.label_slices or 1) > 1 and original.label is not None
    filled = between and drawn_slices(original.label, told=True) is not None
    return PreparedScan(before, after, unchanged, lost, tuple(header_warnings(scan)), filled)


def _is_stored(dataset: Dataset, volume: Volume) -> bool:
    """Return whether the dataset has this volume already, value for value."""
    try:
        stored = dataset.load(volume.name)
    except InputError:
        return False
    same_grids = (stored.grid, stored.original) == (volume.grid, volume.original)
    return same_grids and np.array_equal(stored.image, volume.image) and np.array_equal(stored.label, volume.label)


def _label_map_faults(settings: Preparation, prepared: Iterable[PreparedScan]) -> list[str]:
    """Return a sentence where no mask holds any of the values that are to be renamed."""
    values = label_values(scan.before for scan in prepared)
    if not settings.labels or not values or {*settings.labels} & {*values}:
        return []
    renamed, there = (", ".join(map(str, sorted(part))) for part in (settings.labels, values))
    return [f"--label_map renames {renamed}, which no mask holds (they hold {there}); correct it, or leave it out"]


def _settings_faults(conversion: Conversion) -> list[str]:
    """Return a sentence where the scans of the destination were prepared with other settings."""
    stored = None if conversion.overwrite else read_preparation(conversion.destination)
    if stored is None or stored == conversion.preparation:
        return []
    now, then = conversion.preparation.to_json(), stored.to_json()
    different = ", ".join(f"{key} {then[key]}" for key in now if now[key] != then[key])
    path = conversion.destination / FILE_NAME
    return [f"{path}: the scans there were prepared otherwise ({different}); overwrite them, or choose another folder"]


def _classes(conversion: Conversion, found: FoundScans, prepared: Iterable[PreparedScan]) -> Classes:
    """Return the classes in the prepared masks, with the names that were given or that the source states."""
    values = label_values(scan.after for scan in prepared)
    names: dict[int, str] = {}
    for value, name in found.class_names.items():
        c = conversion.preparation.class_of(value)
        if c != 0:
            names[c] = f"{names[c]} + {name}" if c in names else name
    given = conversion.class_names.split(",") if conversion.class_names else ()
    names |= {c: name.strip() for c, name in enumerate(given, start=1) if name.strip()}
    highest = max(values, default=0)
    return Classes(highest + 1 if 0 < highest < MAX_CLASSES else None, dict(sorted(names.items())))
