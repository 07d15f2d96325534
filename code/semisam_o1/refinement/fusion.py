"""Fusion of a network's predictions with those of registered neighbors and of the templates.

Three sources label every voxel: the network; the volume's neighbors, whose predictions registration warps to it; and
round 0, which propagated the templates' exact labels. A certain prediction of the network is never overruled; where it
is uncertain, the other two decide.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from semisam_o1.data.sampling.fields import resize
from semisam_o1.propagation.cohort import CohortAtlas

NEIGHBOR_WEIGHT = 0.25
TEMPLATE_WEIGHT = 0.25


def fuse(name: str, atlas: CohortAtlas, predicted: Callable[[str], np.ndarray]) -> np.ndarray:
    """Return the fused class probabilities (C, w, h, d) float32 of a volume, on its working grid.

    Args:
        predicted: name → the network's probabilities (C, w, h, d) float32, for this volume and its neighbors.
    """
    own = (1 - NEIGHBOR_WEIGHT - TEMPLATE_WEIGHT) * predicted(name)
    return own + NEIGHBOR_WEIGHT * atlas.fuse_neighbors(name, predicted) + TEMPLATE_WEIGHT * atlas.consensus(name)


def on_grid(probabilities: Tensor, grid: tuple[int, int, int]) -> np.ndarray:
    """Resample predicted probabilities (C, W, H, D) to the working grid, in half precision."""
    return resize(probabilities, grid).cpu().numpy().astype(np.float16)
