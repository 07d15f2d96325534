"""The names and colors of the classes beside exported label maps, in the format of ITK-SNAP's label descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from semisam_o1.core.atomic_io import write_text
from semisam_o1.drawing.outlines import class_color

CLASSES = "classes.txt"
CLASSES_HEADING = "# ITK-SNAP label descriptions"
COLUMNS = "# value red green blue opacity visible mesh name"


def write_classes(path: Path, names: Mapping[int, str]) -> None:
    """Write a line per class, for ITK-SNAP's Segmentation > Import Label Descriptions; none is written without names.

    Args:
        names: of the classes above 0.

    Raises:
        WriteError: if the file cannot be written.
    """
    lines = [CLASSES_HEADING, COLUMNS, '0 0 0 0 0 0 0 "background"']
    for c, name in sorted(names.items()):
        red, green, blue = (int(class_color(c)[i : i + 2], 16) for i in (1, 3, 5))
        lines.append(f'{c} {red} {green} {blue} 1 1 1 "{name.translate(str.maketrans(chr(34), chr(39)))}"')
    if names:
        write_text(path, "".join(f"{line}\n" for line in lines))
