"""Columns of plain text tables line up."""

from __future__ import annotations

import pytest

from semisam_o1.core.terminal import text_table

ROWS = [("scan", "Dice", "time"), ("a", "0.91", "3 s"), ("long name", "1", "12 min")]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert text_table(ROWS) == ["     scan  Dice    time", "        a  0.91     3 s", "long name     1  12 min"]


def test_alignment_is_chosen_per_column_and_lines_end_with_text() -> None:
    assert text_table(ROWS, "<><") == ["scan       Dice  time", "a          0.91  3 s", "long name     1  12 min"]
    assert text_table(ROWS, "<") == ["scan       Dice  time", "a          0.91  3 s", "long name  1     12 min"]
    assert text_table([("{x}", "<")], "<>") == ["{x}  <"]


def test_rows_must_be_equally_long() -> None:
    with pytest.raises(ValueError, match="zip"):
        text_table([("a", "b"), ("c",)])
