"""Nearest neighbors between the voxels of a volume and those of the labeled templates.

Each voxel of a volume looks up the template voxels that resemble it most in local features and lie at
about the same place. Where "the same place" is gets better as matches are found: a smooth map into the template's
frame is fitted to them and the search repeated, as in iterative closest points. The mean label of the matches is
their vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from scipy.spatial import cKDTree

MAX_VOXELS = 500_000  # of a volume on the working grid, and of all templates' voxels searched
MIN_REDUCED_AXIS = 32  # voxels; shorter axes are not reduced
SPARSE_QUERIES = 8_000  # voxels that align a volume
MIN_QUERIES = 100  # fewer do not hold a polynomial
FOREGROUND_PULL = 2.0  # how much more the fit heeds matches in the foreground
RIDGE = 1e-3  # of the fit, beside a mean square of 1


@dataclass(frozen=True)
class AlignmentStep:
    """One step of the fit of a volume's coordinates to its matches.

    Attributes:
        degree: of the polynomials that map the volume to the template's frame.
        gain: how far to follow the matches; nearby matches are preferred, so they fall short.
        weight: of the coordinates in the search for the matches.
    """

    degree: int
    gain: float
    weight: float


ALIGNMENT = (
    AlignmentStep(degree=1, gain=2.0, weight=1.6),
    AlignmentStep(degree=1, gain=2.0, weight=1.6),
    AlignmentStep(degree=1, gain=2.0, weight=2.0),
    AlignmentStep(degree=1, gain=1.5, weight=2.0),
    AlignmentStep(degree=3, gain=1.0, weight=2.4),
    AlignmentStep(degree=3, gain=1.0, weight=2.4),
)


class TemplateMatcher:
    """Finds matches between volumes and one or several templates.

    Works on a grid that is reduced for large volumes. *Places* are measured in the frame of the first template: voxels
    from its center over the mean radius of its structures. The other templates are aligned with the first one.

    Args:
        templates: (features (F, w, h, d), volume shape, votes (num_classes, w, h, d)) each; features and votes on the
            grid that ``working_grid`` names, votes the share of each class in a cell.
        frame_shape: of the first template, in voxels.
        radius: of its structures, in voxels, see ``mean_radius``.
        neighbors: how many template voxels vote for a voxel.
        coordinate_weight: of the coordinates beside the features in ``votes``.
        alignment: the steps of ``align``; none compares the volumes as they lie.
    """

    def __init__(
        self,
        templates: Sequence[tuple[np.ndarray, np.ndarray]],
        frame_shape: Sequence[int],
        radius: float,
        neighbors: int = 15,
        coordinate_weight: float = 3.0,
        alignment: Sequence[AlignmentStep] = ALIGNMENT,
    ) -> None:
        self.neighbors = neighbors
        self.coordinate_weight = coordinate_weight
        self.alignment = tuple(alignment)
        self.frame_shape = tuple(frame_shape)
        self.radius = radius
        self.template_places: list[np.ndarray] = []
        self._pool: list[tuple[np.ndarray, ...]] = []
        for features, votes in templates:
            self._add_template(features, votes)

    def centered(self, grid: Sequence[int]) -> np.ndarray:
        """Return the places (3, w, h, d) of a volume centered on the first template and stretched to its size."""
        axes = [
            (np.arange(cells) + 0.5 - cells / 2) * (frame / cells) / self.radius
            for frame, cells in zip(self.frame_shape, grid, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)

    def near_foreground(self, places: np.ndarray, margin: float) -> np.ndarray:
        """Return whether places (3, ...) lie within ``margin`` radii of the box around the templates' structures."""
        lower, upper = (bound.reshape(3, *[1] * (places.ndim - 1)) for bound in self._bounds)
        return ((places >= lower - margin) & (places <= upper + margin)).all(axis=0)

    def align(self, features: np.ndarray) -> np.ndarray:
        """Return the places (3, w, h, d) of a volume with features (F, w, h, d): a smooth map fitted to its matches."""
        start = places = self.centered(features.shape[1:])
        for step in self.alignment:
            inside = np.flatnonzero(self.near_foreground(places, margin=1.0))
            picks = np.linspace(0, len(inside) - 1, min(len(inside), SPARSE_QUERIES))
            chosen = inside[picks.astype(np.int64)]
            if len(chosen) < MIN_QUERIES:
                break
            flat = [array.reshape(len(array), -1)[:, chosen] for array in (features, start, places)]
            votes, matched = self._match(flat[0], flat[2], step.weight)
            target = flat[2] + step.gain * (matched - flat[2])
            heed = 1 + FOREGROUND_PULL * (1 - votes[0])
            places = start + _fit_polynomials(flat[1], target - flat[1], heed, start, step.degree)
        return places

    def votes(self, features: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return the mean votes (num_classes, n) of the matches of voxels with features (F, n) at places (3, n)."""
        return self._match(features, places, self.coordinate_weight)[0].astype(np.float32)

    def _add_template(self, features: np.ndarray, votes: np.ndarray) -> None:
        """Align a template with those before it and pool the voxels near any structure."""
        places = self.align(features) if self._pool else self.centered(features.shape[1:])
        self.template_places.append(places)
        self._pool.append(tuple(array.reshape(len(array), -1) for array in (features, places, votes)))
        pooled = [np.concatenate(parts, axis=1) for parts in zip(*self._pool, strict=True)]
        foreground = pooled[2][0] < 1
        structures = pooled[1][:, foreground if foreground.any() else slice(None)]
        self._bounds = structures.min(axis=1), structures.max(axis=1)
        # Twice the margin of the voxels to be labeled: matches lie on all sides of those too.
        near = np.flatnonzero(self.near_foreground(pooled[1], margin=2.0))
        near = near[:: -(-len(near) // MAX_VOXELS)]
        self._features, self._places, self._votes = (part[:, near] for part in pooled)
        self._trees: dict[float, cKDTree] = {}

    def _match(self, features: np.ndarray, places: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean votes (num_classes, n) and places (3, n) of the nearest template voxels.

        Args:
            features: (F, n).
            places: (3, n).
            weight: of the places beside the features.
        """
        if weight not in self._trees:
            self._trees[weight] = cKDTree(_joined(self._features, self._places, weight))
        count = min(self.neighbors, self._places.shape[1])
        # The approximation costs no measurable Dice and saves four fifths of the time.
        _, nearest = self._trees[weight].query(_joined(features, places, weight), k=range(1, count + 1), eps=1.0)
        return _mean_columns(self._votes, nearest), _mean_columns(self._places, nearest)


def _joined(features: np.ndarray, places: np.ndarray, weight: float) -> np.ndarray:
    return np.concatenate([features, weight * places]).T.astype(np.float32)


def _mean_columns(values: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Average the columns of (V, N) that ``nearest`` (n, k) names: (V, n)."""
    total = np.zeros((len(values), len(nearest)))
    for column in nearest.T:
        total += values[:, column]
    return total / nearest.shape[1]


def _fit_polynomials(
    known: np.ndarray, values: np.ndarray, heed: np.ndarray, wanted: np.ndarray, degree: int
) -> np.ndarray:
    """Fit polynomials to values (V, n) at places (3, n) by weights heed (n,); return them at (3, w, h, d)."""
    center = known.mean(axis=1, keepdims=True)
    basis = _monomials(known - center, degree)
    normal = (heed * basis) @ basis.T + RIDGE * basis.shape[1] * np.eye(len(basis))
    weights = np.linalg.solve(normal, (heed * basis) @ values.T)
    # Polynomials run away outside the places that they were fitted to: go on with the value at the border.
    lower, upper = known.min(axis=1, keepdims=True), known.max(axis=1, keepdims=True)
    at_wanted = _monomials(np.clip(wanted.reshape(3, -1), lower, upper) - center, degree)
    return (weights.T @ at_wanted).reshape(len(values), *wanted.shape[1:])


def _monomials(places: np.ndarray, degree: int) -> np.ndarray:
    """Return the products of up to ``degree`` coordinates of (3, n): (terms, n), the constant first."""
    terms = [np.ones(places.shape[1])]
    for count in range(1, degree + 1):
        for axes in combinations_with_replacement(range(3), count):
            terms.append(np.prod(places[list(axes)], axis=0))
    return np.stack(terms)


def working_grid(shape: Sequence[int], frame_shape: Sequence[int]) -> list[int]:
    """Return the grid on which a volume of ``shape`` is compared with a template of ``frame_shape``."""
    factor = 1
    while np.prod([-(-size // factor) for size in frame_shape]) > MAX_VOXELS:
        factor += 1
    # Short axes are left as they are: a thin volume would lose all its structure along them.
    return [-(-size // factor) if size >= MIN_REDUCED_AXIS else size for size in shape]


def mean_radius(label: np.ndarray) -> float:
    """Return the classes' mean root-mean-square distance per axis from their centers, in voxels."""
    spreads = [np.argwhere(label == index).var(axis=0).mean() for index in np.unique(label[label > 0])]
    return max(float(np.sqrt(spreads).mean()), 1.0) if spreads else max(label.shape) / 4
