"""What the model says of a volume is weighed against registered neighbors and the templates.

Three opinions on every voxel: the model's; that of the volume's neighbors, whose predictions are carried over by
registration; and what round 0 made of the templates' exact labels. Where the model is sure its label stands, whatever
the others say; regions that it is unsure of go with them.
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
        predicted: name → (C, w, h, d) float32, what the model says, for this volume and its neighbors.
    """
    own = (1 - NEIGHBOR_WEIGHT - TEMPLATE_WEIGHT) * predicted(name)
    return own + NEIGHBOR_WEIGHT * atlas.ask_neighbors(name, predicted) + TEMPLATE_WEIGHT * atlas.consensus(name)


def on_grid(probabilities: Tensor, grid: tuple[int, int, int]) -> np.ndarray:
    """Bring predicted probabilities (C, W, H, D) to the working grid, half precision."""
    return resize(probabilities, grid).cpu().numpy().astype(np.float16)
