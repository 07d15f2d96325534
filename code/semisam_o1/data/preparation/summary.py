"""What a preparation found and did, as a table, and the command that comes next."""

from __future__ import annotations

import shlex
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semisam_o1 import PROJECT_ROOT
from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.data.preparation.formats import times
from semisam_o1.data.preparation.grid import orientation_of
from semisam_o1.data.preparation.settings import Preparation, remap

WIDTH = 110  # of the printed lines
CHECKPOINT = PROJECT_ROOT / "pretrained_ckpt" / "sam_med3d_turbo.pth"


@dataclass(frozen=True)
class State:
    """What the summary tells of a scan, before or after it was prepared."""

    size: tuple[int, ...]  # (W, H, D)
    spacing: tuple[float, ...] | None  # mm, None where it is not stated
    orientation: str | None
    kind: str  # of the voxels
    values: tuple[float, float]  # lowest and highest
    label_values: tuple[int, ...] | None  # None where there is no label

    @classmethod
    def of(cls, volume: Volume) -> State:
        known = volume.geometry.known
        return cls(
            volume.image.shape,
            volume.geometry.spacing if known else None,
            orientation_of(volume.geometry) if known else None,
            str(volume.image.dtype),
            (float(volume.image.min()), float(volume.image.max())),
            None if volume.label is None else tuple(np.unique(volume.label).tolist()),
        )

    def lost(self, after: State, settings: Preparation) -> tuple[int, ...]:
        """Return the classes that the label had (renamed as ``settings`` say) and has no more."""
        if self.label_values is None or after.label_values is None:
            return ()
        had = remap(np.array(self.label_values, np.uint8), settings.labels, settings.other_labels)
        return tuple(sorted({*had.tolist()} - {0, *after.label_values}))


@dataclass(frozen=True)
class Prepared:
    """One scan that was prepared.

    Attributes:
        kept: the file was there already, with the same content.
        lost: classes that cropping or resampling left nothing of.
    """

    found: State
    made: State
    kept: bool
    lost: tuple[int, ...] = ()


def describe(
    destination: Path,
    prepared: Mapping[str, Prepared],
    lists: Mapping[str, list[str]],
    done: str,
    settings: Preparation,
) -> list[str]:
    """Return what was found and made of it, line by line."""
    scans = list(prepared.values())
    kept = sum(scan.kept for scan in scans)
    labeled = sum(scan.found.label_values is not None for scan in scans)
    lines = [
        f"{destination}: {len(scans)} scans ({len(scans) - kept} written, {kept} kept), {labeled} with a label",
        f"lists {done}: " + ", ".join(f"{name} {len(listed)}" for name, listed in lists.items() if listed),
    ]
    empty = [name for name, listed in lists.items() if not listed]
    if empty:
        lines.append(f"not {done}, no scan is left for it: {', '.join(empty)}")
    lines += _table([scan.found for scan in scans], [scan.made for scan in scans])
    lines.append(f"intensities: {_intensity(settings)}" + (f"; cropped: {_crop(settings)}" if settings.crop else ""))
    lost = [f"{name} (class {', '.join(map(str, scan.lost))})" for name, scan in prepared.items() if scan.lost]
    if lost:
        lines += fold(f"nothing left of a class after cropping and resampling: {', '.join(lost)}")
    return [folded for line in lines for folded in fold(line)]


def _table(found: Sequence[State], made: Sequence[State]) -> list[str]:
    rows = [
        ("", "found", "prepared"),
        *(
            (heading, *(cell(states) for states in (found, made)))
            for heading, cell in (
                ("size [voxels]", lambda states: _ranges([state.size for state in states])),
                ("spacing [mm]", lambda states: _ranges([s.spacing for s in states if s.spacing]) or "not stated"),
                ("orientation", lambda states: _counts([s.orientation for s in states if s.orientation])),
                ("voxel type", lambda states: _counts([state.kind for state in states])),
                ("values", lambda states: _extent([state.values for state in states])),
                ("label values", lambda states: ", ".join(map(str, label_values(states))) or "none"),
            )
        ),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return [f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows]


def _ranges(triples: Sequence[Sequence[float]]) -> str:
    texts = []
    for values in zip(*triples, strict=True):
        low, high = f"{min(values):.4g}", f"{max(values):.4g}"
        texts.append(low if low == high else f"{low}–{high}")
    return times(texts)


def _counts(texts: Sequence[str]) -> str:
    counts = Counter(texts).most_common()
    if len(counts) < 2:
        return counts[0][0] if counts else "not stated"
    return ", ".join(f"{text} ({count})" for text, count in counts)


def _extent(pairs: Sequence[tuple[float, float]]) -> str:
    return f"{min(low for low, _ in pairs):.4g} to {max(high for _, high in pairs):.4g}"


def _intensity(settings: Preparation) -> str:
    if settings.intensity == "window":
        low, high = settings.window
        return f"window {low:g} to {high:g}, scaled to −1 … 1"
    return {
        "zscore": "0.5 to 99.5 percentile, mean 0, standard deviation 1",
        "zscore-nonzero": "0.5 to 99.5 percentile, mean 0, standard deviation 1 over voxels that are not 0",
        "keep": "unchanged",
    }[settings.intensity]


def _crop(settings: Preparation) -> str:
    what = {"body": "to the body", "bounds": "to the bounds of each scan"}
    bounds = settings.crop if isinstance(settings.crop, str) else " ".join(map(str, settings.crop))
    return f"{what.get(bounds, f'to {bounds}')} and {settings.margin:g} mm around"


def label_values(states: Iterable[State]) -> list[int]:
    return sorted({value for state in states for value in state.label_values or ()})


def next_steps(destination: Path, prepared: Iterable[Prepared], standard: bool = False) -> list[str]:
    """Return the command that trains on what was prepared, or what is to be done where there is no label yet.

    Args:
        prepared: empty where no template is known.
        standard: the folder is the one that training takes by default.
    """
    root = shlex.quote(str(destination.resolve()))
    made = [scan.made for scan in prepared]
    values = [value for value in label_values(made) if value > 0]
    if not values:
        return [
            "No scan has a label yet. Find out which one is worth labeling:",
            f"  python code/suggest_template.py {root}",
            "Label it, then come back with --labels, --template and --overwrite.",
        ]
    command = f"python code/train_SemiSAM_O1.py --root_path {root}"
    if not standard:
        command += f" --exp {shlex.quote(f'SemiSAM_O1/{destination.resolve().name}')}"
        patch = fitting_patch([state.size for state in made])
        if patch != (128, 128, 128):
            command += f" --patch_size {' '.join(map(str, patch))}"
    if not CHECKPOINT.is_file():
        command += " --propagation atlas"
    if values == list(range(1, len(values) + 1)):
        return ["next:", f"  {command}" + (f" --num_classes {len(values) + 1}" if len(values) > 1 else "")]
    renamed = ",".join(f"{value}={i}" for i, value in enumerate(values, start=1))
    return [
        f"next (the label values have gaps: all above 0 count as one class, or rename them with --labels {renamed}):",
        f"  {command} --binary_label",
    ]


def fitting_patch(sizes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return a patch about as large as the typical scan, at most 128 voxels: sides divisible by 16, one at least 32."""
    sides = [min(max(round(float(side) / 16), 1), 8) * 16 for side in np.median(sizes, axis=0)]
    if max(sides) == 16:
        sides[int(np.argmax(np.median(sizes, axis=0)))] = 32
    return tuple(sides)


def fold(line: str) -> list[str]:
    """Break a long line; a row of the table or a command keeps its own."""
    if line.startswith("  ") or len(line) <= WIDTH:
        return [line]
    return textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
