"""What registration found, made ready for augmentation: the template in the shapes of the other volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from semisam_o1.data.sampling.augmentation import Donor, Warps, quantiles
from semisam_o1.propagation.cohort import CohortAtlas


def make_warps(
    atlas: CohortAtlas, template: str, donors: Sequence[str], image: Callable[[str], Tensor], device: torch.device
) -> Warps:
    """Return the warps of the first template into the shapes of the donors, on the device that volumes lie on."""
    made = []
    for name in donors:
        shape = tuple(image(name).shape)
        places = atlas.atlas.frame_voxels(atlas.placed(name).places)
        made.append(
            Donor(
                shape,
                torch.from_numpy(places).to(device),
                torch.from_numpy(_affine(places, shape)).to(device),
                quantiles(image(name)).to(device),
            )
        )
    return Warps(template, quantiles(image(template)).to(device), made)


def _affine(places: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the (3, 4) map from voxels of a volume of ``shape`` that is nearest to places (3, w, h, d)."""
    axes = [(np.arange(n) + 0.5) * (size / n) - 0.5 for n, size in zip(places.shape[1:], shape, strict=True)]
    voxels = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    known = np.concatenate([voxels, np.ones((1, voxels.shape[1]))])
    return np.linalg.lstsq(known.T, places.reshape(3, -1).T.astype(np.float64), rcond=None)[0].T.astype(np.float32)
