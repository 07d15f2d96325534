"""What comes after a preparation: the command to type next, and a figure of masks whose slices were filled."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from semisam_o1.core.flags import shell_command
from semisam_o1.data.preparation.convert import Conversion
from semisam_o1.data.preparation.scans import filled, read_and_prepare, remap
from semisam_o1.data.preparation.settings import Preparation
from semisam_o1.data.preparation.sources import FoundScans
from semisam_o1.data.preparation.sparse import drawn_slices
from semisam_o1.data.preparation.summary import PreparedScan, label_values

FIGURE = "label_slices.png"


def next_steps(conversion: Conversion, prepared: Mapping[str, PreparedScan]) -> list[str]:
    """Return the command that trains on the prepared scans, or what to do before one can train on them."""
    folder = conversion.destination.resolve()
    root = shlex.quote(str(folder))
    classes = [value for value in label_values(scan.after for scan in prepared.values()) if value > 0]
    if not classes:
        return [
            "No scan has a label yet. Find out which one is worth labeling:",
            f"  {shell_command('suggest')} {root}",
            "Label it, then come back with --labels, --template and --overwrite.",
        ]
    if classes != list(range(1, len(classes) + 1)):
        found = label_values(scan.before for scan in prepared.values())
        renamed = _consecutive(conversion.preparation, found, classes)
        gaps = f"The label values {', '.join(map(str, classes))} are not numbered from 1, as classes are."
        return [gaps, f"next: the same command again, with --label_map {renamed} --overwrite"]
    command = f"  {shell_command('train')} --root_path {root} --exp {shlex.quote(folder.name)} --recipe best"
    return ["next:", command]


def _consecutive(settings: Preparation, values: Sequence[int], classes: Sequence[int]) -> str:
    """Return a --label_map from the values in the masks to classes without gaps, as far as it changes them."""
    number = {0: 0} | {c: i for i, c in enumerate(classes, start=1)}
    pairs = {value: number.get(settings.class_of(value), 0) for value in values}
    return ",".join(f"{value}={c}" for value, c in pairs.items() if value != c)


def draw_filled_masks(conversion: Conversion, found: FoundScans, names: Sequence[str]) -> Path | None:
    """Draw the mask of the first of these scans with its filled slices; return the figure, None without a scan."""
    from semisam_o1.drawing.masks import draw_filled  # matplotlib takes a second to import

    if not names:
        return None
    settings, path = conversion.preparation, conversion.destination / FIGURE
    scan, _ = read_and_prepare(found.scans[names[0]], settings)
    label = remap(scan.label, settings)
    if (drawn := drawn_slices(label, told=True)) is None:
        return None
    draw_filled(scan.image, filled(label, scan, settings), drawn.slices, drawn.axis, path)
    return path
