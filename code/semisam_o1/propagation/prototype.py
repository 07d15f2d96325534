"""Label propagation by prototypes: each grid cell takes the class whose mean template feature is most similar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semisam_o1.data.dataset.geometry import from_patch, resize_nearest, to_patch
from semisam_o1.features.extract import VolumeFeatures


def class_prototypes(templates: Sequence[tuple[VolumeFeatures, np.ndarray]], num_classes: int) -> np.ndarray:
    """Return the unit-length prototype of every class, zero for a class without a cell on any grid.

    Args:
        templates: (features, label (W, H, D)) of each labeled volume.
        num_classes: background included.

    Returns:
        (num_classes, F) float32.
    """
    prototypes = np.zeros((num_classes, len(templates[0][0].spatial)), np.float32)
    for features, label in templates:
        cells = resize_nearest(to_patch(label, features.patch_size), features.spatial.shape[1:])
        for c in np.unique(cells[cells < num_classes]):
            prototypes[c] += _unit(features.spatial[:, cells == c].mean(axis=1))
    return np.stack([_unit(prototype) for prototype in prototypes])


def propagate(features: VolumeFeatures, prototypes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the pseudo-label uint8 (W, H, D) of one volume.

    Args:
        prototypes: (num_classes, F), from ``class_prototypes``.
        shape: of the volume; voxels outside the patch become background.
    """
    length = np.linalg.norm(features.spatial, axis=0)
    cosine = np.tensordot(prototypes, features.spatial / np.maximum(length, 1e-8), axes=1)
    cells = cosine.argmax(axis=0).astype(np.uint8)
    return from_patch(resize_nearest(cells, features.patch_size), shape)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-8)
