"""Affine maps, fitted to coordinates by least squares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_FITTED, MAX_FITTED = 30, 20_000  # cells


def fit_near(coords: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a matrix (3, 3) and a shift (3, 1) from the cells of a grid to coords (3, w, h, d), by the cells ``near``.

    Args:
        near: bool (w, h, d); where hardly any cell is, all are used.
    """
    chosen = np.flatnonzero(near)
    if len(chosen) < MIN_FITTED:
        chosen = np.arange(coords[0].size)
    chosen = chosen[:: -(-len(chosen) // MAX_FITTED)]
    known = np.stack(np.unravel_index(chosen, coords.shape[1:]))
    values = coords.reshape(3, -1)[:, chosen]
    center, mean = (array.mean(axis=1, keepdims=True) for array in (known, values))
    matrix = np.linalg.lstsq((known - center).T, (values - mean).T, rcond=None)[0].T
    return matrix, mean - matrix @ center


def fit_affine(template_coords: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Fit the affine map (3, 4) from voxel coordinates of a volume of ``shape`` to template_coords (3, w, h, d)."""
    grid = template_coords.shape[1:]
    axes = [(np.arange(n) + 0.5) * (size / n) - 0.5 for n, size in zip(grid, shape, strict=True)]
    voxels = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    known = np.concatenate([voxels, np.ones((1, voxels.shape[1]))])
    values = template_coords.reshape(3, -1).astype(np.float64)
    return np.linalg.lstsq(known.T, values.T, rcond=None)[0].T.astype(np.float32)
