"""Round 0 without a foundation model: the template's label travels by voxel-wise nearest neighbours.

Each voxel of a volume looks up the template voxels that resemble it most in local features and lie at
about the same place, and takes the mean of their labels (method.md, section 6). Where "the same place"
is gets better as matches are found: a smooth map into the template's frame is fitted to them and the
search repeated, as in iterative closest points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from scipy.spatial import cKDTree

from ..features.builtin import cell_means, voxel_features

MAX_VOXELS = 500_000  # of a volume on the working grid, and of all templates' voxels searched
MIN_REDUCED_AXIS = 32  # voxels; shorter axes are not reduced
SPARSE_QUERIES = 8_000  # voxels that align a volume
MIN_QUERIES = 100  # fewer do not hold a polynomial
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
    AlignmentStep(1, 2.0, 2.0),
    AlignmentStep(1, 2.0, 2.0),
    AlignmentStep(1, 2.0, 2.5),
    AlignmentStep(1, 1.5, 2.5),
    AlignmentStep(3, 1.0, 3.0),
    AlignmentStep(3, 1.0, 3.0),
)


class AtlasPropagation:
    """Spreads the labels of one or several templates to other volumes of the cohort.

    Places are measured in the frame of the first template: voxels from its centre over the mean radius of
    its structures. The other templates are aligned with the first one.

    Args:
        templates: (image (W, H, D), label (W, H, D) of whole numbers) each, of any sizes.
        num_classes: background included; labels must be below it.
        neighbours: how many template voxels vote for a voxel.
        coordinate_weight: of the coordinates beside the features in the last search.
        alignment: the steps that align a volume before it; none compares the volumes as they lie.
    """

    def __init__(
        self,
        templates: Sequence[tuple[np.ndarray, np.ndarray]],
        num_classes: int,
        neighbours: int = 15,
        coordinate_weight: float = 3.5,
        alignment: Sequence[AlignmentStep] = ALIGNMENT,
    ) -> None:
        self.num_classes = num_classes
        self.neighbours = neighbours
        self.coordinate_weight = coordinate_weight
        self.alignment = tuple(alignment)
        image, label = templates[0]
        self._frame_shape = image.shape
        self._factor = _reduction_factor(image.shape)
        self._radius = _mean_radius(label)
        self._bounds = _foreground_bounds(label, self._centred_places(image.shape))
        self._references: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._trees: dict[float, cKDTree] = {}
        for image, label in templates:
            self._add_template(image, label)

    def probabilities(self, image: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
        """Return the class probabilities of a volume.

        Args:
            image: (W, H, D).
            places: (3, W, H, D), the index in the first template that each voxel lies at, as a registration
                finds it; None: the volumes centred on each other and stretched to the same size.

        Returns:
            (num_classes, W, H, D) float32, summing to 1; far from the template's structures all background.
        """
        features, places = self._describe(image, places)
        places = self._align(features, places)
        inside = self._near_foreground(places, margin=1.0)
        probabilities = np.zeros((self.num_classes, *inside.shape), np.float32)
        probabilities[0] = 1
        votes, _ = self._match(features[:, inside], places[:, inside], self.coordinate_weight)
        probabilities[:, inside] = votes
        return _interpolate(probabilities, image.shape)

    def label(self, image: np.ndarray) -> np.ndarray:
        """Return the most probable class of each voxel, uint8 (W, H, D); ties go to the lower class."""
        return self.probabilities(image).argmax(axis=0).astype(np.uint8)

    def _add_template(self, image: np.ndarray, label: np.ndarray) -> None:
        features, places = self._describe(image)
        if self._references:
            places = self._align(features, places)
        grid = places.shape[1:]
        votes = np.stack([cell_means(label == index, grid) for index in range(self.num_classes)])
        inside = self._near_foreground(places, margin=2.0)
        self._references.append((features[:, inside], places[:, inside], votes[:, inside]))
        self._trees.clear()

    def _describe(self, image: np.ndarray, places: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return a volume's features (F, w, h, d) and places (3, w, h, d) on the working grid."""
        # Short axes are left as they are: a thin volume would lose all its structure along them.
        grid = [-(-size // self._factor) if size >= MIN_REDUCED_AXIS else size for size in image.shape]
        if places is None:
            return voxel_features(cell_means(image, grid)), self._centred_places(grid)
        centre = (np.array(self._frame_shape).reshape(3, 1, 1, 1) - 1) / 2
        return voxel_features(cell_means(image, grid)), (cell_means(places, grid) - centre) / self._radius

    def _centred_places(self, grid: Sequence[int]) -> np.ndarray:
        axes = [
            (np.arange(cells) + 0.5 - cells / 2) * (frame / cells) / self._radius
            for frame, cells in zip(self._frame_shape, grid, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"))

    def _near_foreground(self, places: np.ndarray, margin: float) -> np.ndarray:
        lower, upper = (bound.reshape(3, *[1] * (places.ndim - 1)) for bound in self._bounds)
        return ((places >= lower - margin) & (places <= upper + margin)).all(axis=0)

    def _align(self, features: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return the places (3, w, h, d) moved by a smooth map to where a volume's matches lie."""
        start = places
        for step in self.alignment:
            inside = np.flatnonzero(self._near_foreground(places, margin=1.0))
            # Spread evenly in memory order but by a stride prime to the axes, so that no axis is sampled in lockstep.
            chosen = inside[np.linspace(0, len(inside) - 1, min(len(inside), SPARSE_QUERIES)).astype(np.int64)]
            if len(chosen) < MIN_QUERIES:
                break
            flat = [array.reshape(len(array), -1)[:, chosen] for array in (features, start, places)]
            _, matched = self._match(flat[0], flat[2], step.weight)
            target = flat[2] + step.gain * (matched - flat[2])
            places = start + _fit_polynomials(flat[1], target - flat[1], start, step.degree)
        return places

    def _match(self, features: np.ndarray, places: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean votes (num_classes, n) and places (3, n) of the nearest template voxels.

        Args:
            features: (F, n).
            places: (3, n).
            weight: of the places beside the features.
        """
        parts = [np.concatenate(part, axis=1) for part in zip(*self._references, strict=True)]
        stride = -(-parts[0].shape[1] // MAX_VOXELS)
        known_features, known_places, known_votes = (part[:, :: max(stride, 1)] for part in parts)
        if weight not in self._trees:
            self._trees[weight] = cKDTree(_joined(known_features, known_places, weight))
        count = min(self.neighbours, known_places.shape[1])
        # The approximation costs no measurable Dice and saves four fifths of the time.
        _, nearest = self._trees[weight].query(_joined(features, places, weight), k=range(1, count + 1), eps=1.0)
        return _mean_columns(known_votes, nearest), _mean_columns(known_places, nearest)


def _joined(features: np.ndarray, places: np.ndarray, weight: float) -> np.ndarray:
    return np.concatenate([features, weight * places]).T.astype(np.float32)


def _mean_columns(values: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Average the columns of (V, N) that ``nearest`` (n, k) names: (V, n)."""
    total = np.zeros((len(values), len(nearest)))
    for column in nearest.T:
        total += values[:, column]
    return total / nearest.shape[1]


def _fit_polynomials(known: np.ndarray, values: np.ndarray, wanted: np.ndarray, degree: int) -> np.ndarray:
    """Fit polynomials of the place to values (V, n) known at places (3, n); return them at (3, w, h, d)."""
    centre = known.mean(axis=1, keepdims=True)
    basis = _monomials(known - centre, degree)
    normal = basis @ basis.T + RIDGE * basis.shape[1] * np.eye(len(basis))
    weights = np.linalg.solve(normal, basis @ values.T)
    at_wanted = _monomials(wanted.reshape(3, -1) - centre, degree)
    return (weights.T @ at_wanted).reshape(len(values), *wanted.shape[1:])


def _monomials(places: np.ndarray, degree: int) -> np.ndarray:
    """Return the products of up to ``degree`` coordinates of (3, n): (terms, n), the constant first."""
    terms = [np.ones(places.shape[1])]
    for count in range(1, degree + 1):
        for axes in combinations_with_replacement(range(3), count):
            terms.append(np.prod(places[list(axes)], axis=0))
    return np.stack(terms)


def _reduction_factor(shape: Sequence[int]) -> int:
    factor = 1
    while np.prod([-(-size // factor) for size in shape]) > MAX_VOXELS:
        factor += 1
    return factor


def _mean_radius(label: np.ndarray) -> float:
    """Return the classes' mean root-mean-square distance per axis from their centres, in voxels."""
    spreads = [np.argwhere(label == index).var(axis=0).mean() for index in np.unique(label[label > 0])]
    return max(float(np.sqrt(spreads).mean()), 1.0) if spreads else max(label.shape) / 4


def _foreground_bounds(label: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the greatest place (3,) of the foreground, of the whole volume where it has none."""
    inside = places[:, label > 0] if label.any() else places.reshape(3, -1)
    return inside.min(axis=1), inside.max(axis=1)


def _interpolate(probabilities: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    tensor = torch.from_numpy(probabilities)[None]
    full = torch.nn.functional.interpolate(tensor, tuple(shape), mode="trilinear", align_corners=False)
    return full[0].numpy()
