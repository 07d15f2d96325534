"""Nearest neighbors between the voxels of a volume and those of the labeled templates.

Each voxel is matched with the template voxels nearest in local features and in position. As in iterative closest
points, a smooth map into the template's frame is fitted to the matches, and the search repeated. The mean label of the
matches is their vote. Frame coordinates are voxels from the center of the first template, divided by the mean radius of
its structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement, count

import numpy as np
from scipy.spatial import cKDTree

MAX_VOXELS = 500_000  # of a volume's working grid, and of all template voxels searched
MIN_REDUCED_AXIS = 32  # voxels; shorter axes are not reduced
NEIGHBORS = 15  # template voxels that a voxel is matched with
COORDINATE_WEIGHT = 3.0  # of frame coordinates beside the features, when matches vote
SPARSE_QUERIES = 8_000  # voxels that align a volume
MIN_QUERIES = 100  # too few voxels for a polynomial below that
FOREGROUND_WEIGHT = 2.0  # additional weight of matches in the foreground, in the fit
RIDGE = 1e-3  # regularization of the fit, relative to a mean square of 1
# Steps that fit a volume's frame coordinates to its matches: degree of the polynomials; factor on the displacement to
# the matches, which are too near since near ones are preferred; weight of the frame coordinates in the search.
ALIGNMENT = ((1, 2.0, 1.6), (1, 2.0, 1.6), (1, 2.0, 2.0), (1, 1.5, 2.0), (3, 1.0, 2.4), (3, 1.0, 2.4))


class TemplateMatcher:
    """Finds matches between volumes and one or several templates, which are aligned with the first one.

    Args:
        templates: (features (F, w, h, d), votes (num_classes, w, h, d)) each, on the grid of ``working_grid``; votes
            are the share of each class in a cell.
        radius: mean radius of the first template's structures in voxels.

    Attributes:
        template_coords: frame coordinates (3, w, h, d) of every template.
    """

    def __init__(
        self, templates: Sequence[tuple[np.ndarray, np.ndarray]], frame_shape: Sequence[int], radius: float
    ) -> None:
        self.frame_shape, self.radius = tuple(frame_shape), radius
        self.template_coords: list[np.ndarray] = []
        pool: list[tuple[np.ndarray, ...]] = []
        for features, votes in templates:
            frame_coords = self.align(features) if pool else self._centered(features.shape[1:])
            self.template_coords.append(frame_coords)
            pool.append(tuple(array.reshape(len(array), -1) for array in (features, frame_coords, votes)))
            pooled = [np.concatenate(parts, axis=1) for parts in zip(*pool, strict=True)]
            foreground = pooled[2][0] < 1
            structures = pooled[1][:, foreground if foreground.any() else slice(None)]
            self._bounds = structures.min(axis=1), structures.max(axis=1)
            # Twice the margin of the voxels to be labeled, whose matches lie on all sides of them.
            near = np.flatnonzero(self.near_foreground(pooled[1], margin=2.0))
            near = near[:: -(-len(near) // MAX_VOXELS)]
            self._features, self._coords, votes_near = (part[:, near] for part in pooled)
            self._values = np.concatenate([votes_near, self._coords], dtype=np.float64)
            self._trees: dict[float, cKDTree] = {}

    def near_foreground(self, frame_coords: np.ndarray, margin: float) -> np.ndarray:
        """Return whether frame coordinates (3, ...) lie within ``margin`` radii of the structures' bounding box."""
        lower, upper = (bound.reshape(3, *[1] * (frame_coords.ndim - 1)) for bound in self._bounds)
        return ((frame_coords >= lower - margin) & (frame_coords <= upper + margin)).all(axis=0)

    def align(self, features: np.ndarray) -> np.ndarray:
        """Return the frame coordinates (3, w, h, d) of a volume with features (F, w, h, d) by a smooth map."""
        start = frame_coords = self._centered(features.shape[1:])
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

    def _centered(self, grid: Sequence[int]) -> np.ndarray:
        """Return the frame coordinates (3, w, h, d) of a volume stretched over the first template."""
        axes = [
            (np.arange(cells) + 0.5 - cells / 2) * (frame / cells) / self.radius
            for frame, cells in zip(self.frame_shape, grid, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)

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


def working_grid(shape: Sequence[int], frame_shape: Sequence[int]) -> list[int]:
    """Return the grid on which a volume of ``shape`` is compared with a template of ``frame_shape``."""
    factor = next(f for f in count(1) if np.prod([-(-size // f) for size in frame_shape]) <= MAX_VOXELS)
    # Short axes are not reduced: a thin volume would lose all structure along them.
    return [-(-size // factor) if size >= MIN_REDUCED_AXIS else size for size in shape]


def mean_radius(label: np.ndarray) -> float:
    """Return the root-mean-square distance per axis from the center of a class in voxels, mean over the classes."""
    spreads = [np.argwhere(label == index).var(axis=0).mean() for index in np.unique(label[label > 0])]
    return max(float(np.sqrt(spreads).mean()), 1.0) if spreads else max(label.shape) / 4
