"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], align: str = ">") -> list[str]:
    """Return one line per row, with aligned columns and two spaces between them.

    Args:
        rows: cells, the same number in every row.
        align: '<' (left) or '>' (right) for each column; the last one also holds for the columns after it.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    columns = [f"{{:{side}{width}}}" for side, width in zip(align.ljust(len(widths), align[-1]), widths, strict=True)]
    return ["  ".join(columns).format(*row).rstrip() for row in rows]
