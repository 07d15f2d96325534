"""What a conversion found and wrote, as text."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semisam_o1.core.errors import listed
from semisam_o1.core.terminal import text_table
from semisam_o1.data.dataset.volumes import Grid, Volume
from semisam_o1.data.preparation.formats import times
from semisam_o1.data.preparation.grid import orientation_of
from semisam_o1.data.preparation.lists import DatasetLists
from semisam_o1.data.preparation.settings import Preparation
from semisam_o1.data.preparation.sources import FoundScans

LINE_WIDTH = 110  # characters
MAX_WARNINGS = 3


@dataclass(frozen=True)
class ScanSummary:
    """Properties of a scan before or after its preparation."""

    grid: Grid
    dtype: str  # type of the voxels
    values: tuple[float, float]  # lowest and highest
    label_values: tuple[int, ...] | None  # None where there is no label

    @classmethod
    def of(cls, volume: Volume) -> ScanSummary:
        values = float(volume.image.min()), float(volume.image.max())
        label_values = None if volume.label is None else tuple(np.unique(volume.label).tolist())
        return cls(volume.grid, str(volume.image.dtype), values, label_values)


@dataclass(frozen=True)
class PreparedScan:
    """Properties of one scan as found and as prepared."""

    before: ScanSummary
    after: ScanSummary
    unchanged: bool  # whether the file existed already, with the same content
    lost: str = ""  # classes of which cropping or resampling left no voxel
    warnings: tuple[str, ...] = ()  # sentences on what the file leaves open
    filled: bool = False  # whether slices of the mask were filled between drawn ones


def label_values(scans: Iterable[ScanSummary]) -> list[int]:
    return sorted({value for scan in scans for value in scan.label_values or ()})


def describe(
    destination: Path,
    found: FoundScans,
    lists: DatasetLists,
    prepared: Mapping[str, PreparedScan],
    settings: Preparation,
) -> list[str]:
    """Return what was found and written, line by line."""
    scans, done = list(prepared.values()), "kept" if lists.keep else "written"
    kept = sum(scan.unchanged for scan in scans)
    labeled = sum(scan.before.label_values is not None for scan in scans)
    empty = [name for name, listed in lists.names.items() if not listed]
    lost = [f"{name} (class {scan.lost})" for name, scan in prepared.items() if scan.lost]
    unlisted = [name for name in found.scans if not any(name in listed for listed in lists.names.values())]
    lines = [
        f"{destination}: {len(scans)} scans ({len(scans) - kept} written, {kept} kept), {labeled} with a label",
        f"lists {done}: " + ", ".join(f"{name} {len(listed)}" for name, listed in lists.names.items() if listed),
        f"not {done}, no scan is left for it: {', '.join(empty)}" if empty else "",
        *_comparison([scan.before for scan in scans], [scan.after for scan in scans]),
        _treatment(settings),
        f"nothing left of a class after cropping and resampling: {', '.join(lost)}" if lost else "",
        *(
            f"missing of {name}, {len(missing)} of {len(lists.names[name]) + len(missing)}: {', '.join(missing)}"
            for name, missing in lists.missing.items()
        ),
        f"in no list: {', '.join(unlisted)}" if unlisted else "",
        f"labels without an image, left out: {', '.join(found.orphans)}" if found.orphans else "",
        *_remarks(found, prepared, settings),
    ]
    if lists.keep and lists.missing:
        lines.append(
            f"The lists of {destination} were kept and name scans that are not there; training stops at them. Bring "
            "the missing ones, or name another folder: a new one gets lists of the scans that exist."
        )
    wrap = textwrap.TextWrapper(LINE_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [part for line in lines for part in ([line] if line.startswith("  ") else wrap.wrap(line))]


def _remarks(found: FoundScans, prepared: Mapping[str, PreparedScan], settings: Preparation) -> Iterator[str]:
    """Yield what was skipped, filled or taken as it is although it is odd."""
    if found.skipped:
        reasons = (f"{len(names)} {reason} ({listed(names, 3)})" for reason, names in found.skipped.items())
        yield f"skipped: {'; '.join(reasons)}"
    if filled := [name for name, scan in prepared.items() if scan.filled]:
        yield f"slices between drawn ones were filled in the masks of {listed(filled)}"
    held = label_values(scan.before for scan in prepared.values())
    if unused := [value for value in settings.labels if value not in held]:
        yield f"--label_map: no mask holds the value {', '.join(map(str, unused))}"
    warnings = [warning for scan in prepared.values() for warning in scan.warnings]
    yield from warnings[:MAX_WARNINGS]
    if len(warnings) > MAX_WARNINGS:
        yield f"… and {len(warnings) - MAX_WARNINGS} more files like these"


def _comparison(before: Sequence[ScanSummary], after: Sequence[ScanSummary]) -> list[str]:
    """Return a table with the properties of all scans as found and as prepared."""
    columns = [("", "size [voxels]", "spacing [mm]", "orientation", "voxel type", "values", "label values")]
    for heading, scans in (("found", before), ("prepared", after)):
        stated = [scan.grid.geometry for scan in scans if scan.grid.geometry.known]
        column = (
            heading,
            _ranges([scan.grid.size for scan in scans]),
            _ranges([geometry.spacing for geometry in stated]),
            _counts(map(orientation_of, stated)),
            _counts(scan.dtype for scan in scans),
            f"{min(scan.values[0] for scan in scans):.4g} to {max(scan.values[1] for scan in scans):.4g}",
            ", ".join(map(str, label_values(scans))) or "none",
        )
        columns.append(column)
    return [f"  {line}" for line in text_table(list(zip(*columns, strict=True)), "<")]


def _ranges(triples: Sequence[Sequence[float]]) -> str:
    ends = [(f"{min(values):.4g}", f"{max(values):.4g}") for values in zip(*triples, strict=True)]
    return times(low if low == high else f"{low}–{high}" for low, high in ends) or "not stated"


def _counts(texts: Iterable[str]) -> str:
    counts = Counter(texts).most_common()
    return ", ".join(f"{text} ({count})" if len(counts) > 1 else text for text, count in counts) or "not stated"


def _treatment(settings: Preparation) -> str:
    """Describe the normalization of the intensities, and the crop if there is one."""
    text = {
        "keep": "unchanged",
        "window": "window {:g} to {:g}, scaled to −1 … 1".format(*settings.window or (0, 0)),
    }.get(settings.intensity, "0.5 to 99.5 percentile, mean 0, standard deviation 1")
    text += " over voxels that are not 0" if settings.intensity == "zscore-nonzero" else ""
    if settings.crop is None:
        return f"intensities: {text}"
    regions = {"body": "the body", "bounds": "the bounds of each scan"}
    region = regions.get(settings.crop) or " ".join(map(str, settings.crop))
    return f"intensities: {text}; cropped: to {region} and {settings.margin:g} mm around"
