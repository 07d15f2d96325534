"""The template warped to the shapes of the other volumes, for augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from semisam_o1.data.sampling.augmentation import Donor, Warps, quantiles
from semisam_o1.propagation.cohort import CohortAtlas


def make_warps(atlas: CohortAtlas) -> Warps:
    """Return the warps of the first labeled volume to the unlabeled ones, on the device of the stored volumes."""
    access, store = atlas.access, atlas.access.store
    donors = []
    for name in access.unlabeled:
        template_coords = atlas.propagation.template_coords(atlas.registered(name).frame_coords)
        affine = _affine(template_coords, access.shape(name))
        arrays = (torch.from_numpy(array).to(store.device) for array in (template_coords, affine))
        donors.append(Donor(access.shape(name), *arrays, quantiles(store.image(name)).to(store.device)))
    template = access.labeled[0]
    return Warps(template, quantiles(store.image(template)).to(store.device), donors)


def _affine(template_coords: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Fit the affine map (3, 4) from voxel coordinates of a volume of ``shape`` to template_coords (3, w, h, d)."""
    grid = template_coords.shape[1:]
    axes = [(np.arange(n) + 0.5) * (size / n) - 0.5 for n, size in zip(grid, shape, strict=True)]
    voxels = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    known = np.concatenate([voxels, np.ones((1, voxels.shape[1]))])
    values = template_coords.reshape(3, -1).astype(np.float64)
    return np.linalg.lstsq(known.T, values.T, rcond=None)[0].T.astype(np.float32)
