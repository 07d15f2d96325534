"""A made-up CT scan of a body on a table."""

from __future__ import annotations

import numpy as np

from semisam_o1.data.dataset.volumes import Geometry, Grid

GRID = Grid((40, 30, 20), Geometry((1.0, 1.0, 2.0), known=True))


def phantom() -> np.ndarray:
    """Return CT-like values: air, a body, and a small table below it."""
    x, y, _ = np.indices(GRID.size)
    image = np.full(GRID.size, -1000, np.int16)
    image[((x - 20) / 11) ** 2 + ((y - 13) / 8) ** 2 < 1] = 40
    image[5:35, 27:29, :] = 60
    return image + np.random.default_rng(0).integers(-9, 10, GRID.size).astype(np.int16)
