"""Nearest neighbors between the voxels of a volume and those of the labeled templates.

Each voxel is matched with the template voxels nearest in local features and in position. As in iterative closest
points, a smooth map into the template's frame is fitted to the matches, and the search repeated. The mean label of the
matches is their vote. Frame coordinates are positions from the center of the first template's structures, divided by
their mean radius.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
from scipy.spatial import cKDTree

MAX_VOXELS = 500_000  # of the templates that are searched
NEIGHBORS = 15  # template voxels that a voxel is matched with
COORDINATE_WEIGHT = 3.0  # of frame coordinates beside the features, when matches vote
SPARSE_QUERIES = 3_000  # voxels that align a volume
MIN_QUERIES = 100  # too few voxels for a polynomial below that
FOREGROUND_WEIGHT = 2.0  # additional weight of matches in the foreground, in the fit
RIDGE = 1e-3  # regularization of the fit, relative to a mean square of 1
# Steps that fit a volume's frame coordinates to its matches: degree of the polynomials; factor on the displacement to
# the matches, which are too near since near ones are preferred; weight of the frame coordinates in the search.
ALIGNMENT = ((1, 2.0, 1.6), (1, 2.0, 1.6), (1, 2.0, 2.0), (1, 1.5, 2.0), (3, 1.0, 2.4), (3, 1.0, 2.4))


class TemplateMatcher:
    """Finds matches between volumes and one or several templates, which are aligned with the first one.

    Args:
        templates: (features (F, w, h, d), votes (num_classes, w, h, d), initial frame coordinates (3, w, h, d)) each;
            votes are the share of each class in a cell.

    Attributes:
        template_coords: frame coordinates (3, w, h, d) of every template.
    """

    def __init__(self, templates: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        self.template_coords: list[np.ndarray] = []
        pool: list[tuple[np.ndarray, ...]] = []
        for features, votes, start in templates:
            frame_coords = self.align(features, start) if pool else start
            self.template_coords.append(frame_coords)
            pool.append(tuple(array.reshape(len(array), -1) for array in (features, frame_coords, votes)))
            pooled = [np.concatenate(parts, axis=1) for parts in zip(*pool, strict=True)]
            foreground = pooled[2][0] < 1
            placed = pooled[1][:, foreground if foreground.any() else slice(None)]
            self._bounds = placed.min(axis=1), placed.max(axis=1)
            # A larger margin than that of the voxels to be labeled, whose matches lie on all sides of them.
            near = np.flatnonzero(self.near_foreground(pooled[1], margin=2.0))
            near = near[:: -(-len(near) // MAX_VOXELS)]
            self._features, self._coords, votes_near = (part[:, near] for part in pooled)
            self._values = np.concatenate([votes_near, self._coords], dtype=np.float64)
            self._trees: dict[float, cKDTree] = {}

    def near_foreground(self, frame_coords: np.ndarray, margin: float) -> np.ndarray:
        """Return whether frame coordinates (3, ...) lie within ``margin`` radii of the structures' bounding box."""
        lower, upper = (bound.reshape(3, *[1] * (frame_coords.ndim - 1)) for bound in self._bounds)
        return ((frame_coords >= lower - margin) & (frame_coords <= upper + margin)).all(axis=0)

    def align(self, features: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return the frame coordinates (3, w, h, d) of a volume with features (F, w, h, d) by a smooth map.

        Args:
            start: initial frame coordinates (3, w, h, d).
        """
        frame_coords = start
        for degree, gain, weight in ALIGNMENT:
            inside = np.flatnonzero(self.near_foreground(frame_coords, margin=1.0))
            chosen = inside[np.linspace(0, len(inside) - 1, min(len(inside), SPARSE_QUERIES)).astype(np.int64)]
            if len(chosen) < MIN_QUERIES:
                break
            flat = [array.reshape(len(array), -1)[:, chosen] for array in (features, start, frame_coords)]
            votes, matched = self._match(flat[0], flat[2], weight)
            target = flat[2] + gain * (matched - flat[2])
            weights = 1 + FOREGROUND_WEIGHT * (1 - votes[0])
            frame_coords = start + _fit_polynomials(flat[1], target - flat[1], weights, start, degree)
        return frame_coords

    def votes(self, features: np.ndarray, frame_coords: np.ndarray) -> np.ndarray:
        """Return the mean votes (num_classes, n) of the matches of features (F, n) at frame coordinates (3, n)."""
        return self._match(features, frame_coords, COORDINATE_WEIGHT)[0].astype(np.float32)

    def _match(self, features: np.ndarray, frame_coords: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean votes (num_classes, n) and frame coordinates (3, n) of the nearest template voxels."""

        def points(features: np.ndarray, frame_coords: np.ndarray) -> np.ndarray:
            return np.concatenate([features, weight * frame_coords]).T.astype(np.float32)

        if weight not in self._trees:
            self._trees[weight] = cKDTree(points(self._features, self._coords))
        neighbors = range(1, min(NEIGHBORS, self._coords.shape[1]) + 1)
        # The approximation costs no measurable Dice and saves four fifths of the time.
        _, nearest = self._trees[weight].query(points(features, frame_coords), k=neighbors, eps=1.0)
        mean = sum(self._values[:, column] for column in nearest.T) / len(neighbors)
        return mean[:-3], mean[-3:]


def _fit_polynomials(
    points: np.ndarray, values: np.ndarray, weights: np.ndarray, queries: np.ndarray, degree: int
) -> np.ndarray:
    """Fit polynomials to values (V, n) at points (3, n) by weights (n,); evaluate them at queries (3, w, h, d)."""
    center = points.mean(axis=1, keepdims=True)
    basis = _monomials(points - center, degree)
    normal = (weights * basis) @ basis.T + RIDGE * basis.shape[1] * np.eye(len(basis))
    coefficients = np.linalg.solve(normal, (weights * basis) @ values.T)
    # Polynomials diverge outside of the points they were fitted to: continue with the value at the border.
    lower, upper = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    at_queries = _monomials(np.clip(queries.reshape(3, -1), lower, upper) - center, degree)
    return (coefficients.T @ at_queries).reshape(len(values), *queries.shape[1:])


def _monomials(points: np.ndarray, degree: int) -> np.ndarray:
    """Return the products of up to ``degree`` coordinates of points (3, n): (terms, n), the constant first."""
    factors = [axes for n in range(degree + 1) for axes in combinations_with_replacement(range(3), n)]
    return np.stack([points[list(axes)].prod(axis=0) for axes in factors], dtype=np.float64)
