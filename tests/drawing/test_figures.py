"""Figures of slices as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from semisam_o1.drawing.figures import draw_labels


def test_figures_are_drawn_complete_or_not_at_all(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((9, 8, 7)).astype(np.float32)
    label = (image > 0.5).astype(np.uint8)
    rows = [("a", image, None, [label, label]), ("$b", image, label, [label, label * 0])]
    draw_labels(rows, ["0", "1"], tmp_path / "new" / "r.png", {1: "$left_atrium$"})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["r.png"]
    assert (tmp_path / "new" / "r.png").read_bytes().startswith(b"\x89PNG")
