"""Label propagation by prototypes: each grid cell takes the class whose mean template feature is most similar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semisam_o1.data.dataset.geometry import from_patch, resize_nearest, to_patch

Shape = Sequence[int]


def class_prototypes(templates: Sequence[tuple[np.ndarray, np.ndarray, Shape]], num_classes: int) -> np.ndarray:
    """Return the unit-length prototype of every class, zero for a class without a cell on any grid.

    Args:
        templates: (spatial feature (F, w, h, d), label (W, H, D), patch size) of each labeled volume.
        num_classes: background included.

    Returns:
        (num_classes, F) float32.
    """
    prototypes = np.zeros((num_classes, templates[0][0].shape[0]), np.float32)
    for spatial, label, patch_size in templates:
        cells = resize_nearest(to_patch(label, patch_size), spatial.shape[1:])
        for c in range(num_classes):
            mask = cells == c
            if mask.any():
                prototypes[c] += _unit(spatial[:, mask].mean(axis=1))
    return np.stack([_unit(prototype) for prototype in prototypes])


def propagate(spatial: np.ndarray, prototypes: np.ndarray, patch_size: Shape, shape: Shape) -> np.ndarray:
    """Return the pseudo-label uint8 (W, H, D) of one volume.

    Args:
        spatial: spatial feature (F, w, h, d) of the volume centered in a patch of ``patch_size``.
        prototypes: (num_classes, F), from ``class_prototypes``.
        shape: of the volume; voxels outside the patch become background.
    """
    length = np.linalg.norm(spatial, axis=0)
    cosine = np.tensordot(prototypes, spatial / np.maximum(length, 1e-8), axes=1)
    cells = cosine.argmax(axis=0).astype(np.uint8)
    return from_patch(resize_nearest(cells, patch_size), shape)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-8)
