"""Round 0 by registration and voxel-wise matches: the template's label carried over to every volume.

Each volume is aligned with the template by its matches (``matching``), the alignment made exact by deformable
registration (``registration``). Two answers are averaged: the template's label as the registration carries it, and the
vote of the matches that are searched again around the registered places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semisam_o1.data.dataset.prediction import Prediction, to_prediction
from semisam_o1.data.sampling.fields import resize, sample, sample_array
from semisam_o1.features.builtin import cell_means
from semisam_o1.propagation.description import Components, Described, Scan, along, describe, leading_directions
from semisam_o1.propagation.matching import TemplateMatcher, mean_radius, working_grid
from semisam_o1.propagation.registration import box_mean, register

COARSE_RADIUS = 9.0  # voxels; structures larger than that are registered on half the resolution
MIN_AFFINE, MAX_AFFINE = 30, 20_000  # voxels that an affine map is fitted to
VOTE_WINDOW = 9  # voxels around carried foreground that the matches vote on
VOTE_SHARE = 1e-3  # of foreground in that window, from which on they are asked


@dataclass(frozen=True)
class Placed:
    """A volume in the frame of the first template.

    Attributes:
        places: (3, w, h, d) float32 on the working grid, in the units of ``TemplateMatcher``.
        probabilities: (num_classes, w, h, d) float32 on the working grid.
        gain: the share by which registration bettered the match; 0 where it did not, and the alignment was kept.
    """

    places: np.ndarray
    probabilities: np.ndarray
    gain: float


class AtlasPropagation:
    """Carries the labels of one or several templates to other volumes of the cohort.

    Args:
        templates: (scan, label (W, H, D) of whole numbers) each, of any sizes. Either all scans of the cohort have
            ``features`` or none.
        num_classes: background included; labels must be below it.
        device: that registers.
        registered: whether to register, or to leave volumes as their matches align them, which takes seconds.

    Raises:
        ValueError: if a label is not below ``num_classes``.
    """

    def __init__(
        self,
        templates: Sequence[tuple[Scan, np.ndarray]],
        num_classes: int,
        device: torch.device | str = "cpu",
        registered: bool = True,
    ) -> None:
        for _, label in templates:
            if label.max() >= num_classes:
                raise ValueError(f"a template's label holds {label.max()}, with {num_classes} classes")
        self.num_classes = num_classes
        self.device = torch.device(device)
        self.registered = registered
        (first, label), *_ = templates
        self._frame_shape = first.image.shape
        grid = working_grid(self._frame_shape, self._frame_shape)
        radius = mean_radius(label)
        self._sampling = 2 if radius * max(grid) / max(self._frame_shape) > COARSE_RADIUS else 1
        described = [scan.features for scan, _ in templates if scan.features is not None]
        self._components = Components(described) if described else None
        self._directions: Tensor | None = None
        self._directions = leading_directions(self.describe(first).registration)
        self._described = [self.describe(scan) for scan, _ in templates]
        self._votes = [
            np.stack([cell_means(label == c, part.grid) for c in range(num_classes)])
            for part, (_, label) in zip(self._described, templates, strict=True)
        ]
        self._matcher = TemplateMatcher(
            [(part.matching, votes) for part, votes in zip(self._described, self._votes, strict=True)],
            self._frame_shape,
            radius,
        )
        self.placed_templates = [
            Placed(places, votes, gain=0.0)
            for places, votes in zip(self._matcher.template_places, self._votes, strict=True)
        ]

    def grid(self, shape: Sequence[int]) -> list[int]:
        """Return the working grid of a volume of ``shape``."""
        return working_grid(shape, self._frame_shape)

    def describe(self, scan: Scan) -> Described:
        """Compute what a volume is compared by."""
        described = describe(scan, self.grid(scan.image.shape), self._components, self.device)
        if self._directions is None:
            return described
        return Described(described.matching, along(described.registration, self._directions))

    def place(self, volume: Described) -> Placed:
        """Bring a volume into the frame and label it, on its working grid."""
        aligned = self._matcher.align(volume.matching).astype(np.float32)
        if not self.registered:
            return Placed(aligned, self._voted(volume, aligned), gain=0.0)
        places, gain = aligned, 0.0
        carried = np.zeros((self.num_classes, *volume.grid), np.float32)
        for index, template in enumerate(self.placed_templates):
            start = self._to_indices(aligned, template.places)
            displacement, match = self.register(volume, aligned, self._described[index], start)
            carried += sample_array(template.probabilities, start + displacement) / len(self.placed_templates)
            if index == 0 and match > 0:
                gain, places = match, sample_array(template.places, start + displacement)
        # Beyond a few voxels from what was carried over, the matches would only say background, slowly.
        near = box_mean(torch.from_numpy(1 - carried[:1]), VOTE_WINDOW)[0].numpy() > VOTE_SHARE
        carried[:, near] = (carried[:, near] + self._matcher.votes(volume.matching[:, near], places[:, near])) / 2
        return Placed(places, carried, gain)

    def label(self, scan: Scan) -> Prediction:
        """Return the labels of a volume by itself, without a cohort."""
        probabilities = torch.from_numpy(self.place(self.describe(scan)).probabilities)
        return to_prediction(resize(probabilities, scan.image.shape))

    def _voted(self, volume: Described, places: np.ndarray) -> np.ndarray:
        """Return what the matches alone say, (num_classes, w, h, d); far from any structure, background."""
        inside = self._matcher.near_foreground(places, margin=1.0)
        votes = np.zeros((self.num_classes, *volume.grid), np.float32)
        votes[0] = 1
        votes[:, inside] = self._matcher.votes(volume.matching[:, inside], places[:, inside])
        return votes

    def register(
        self, fixed: Described, fixed_places: np.ndarray, moving: Described, start: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Find where the voxels of one volume lie in another, near the structures.

        Args:
            fixed_places: (3, w, h, d) in the frame; they tell where the structures are.
            start: (3, w, h, d), indices in the moving volume's working grid to begin at.

        Returns:
            (3, w, h, d) float32, the displacement from ``start``, elsewhere that of the border; and the share by which
            it betters the match. If it does not, both are 0.
        """
        begin = torch.from_numpy(start).to(self.device)
        inside = self._matcher.near_foreground(fixed_places, margin=1.0)
        if not inside.any():
            return np.zeros_like(start), 0.0
        box = tuple(_extent(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
        part, begin = (array[(slice(None), *box)] for array in (fixed.registration, begin))
        moved = register(part, moving.registration, begin, self._sampling)
        before, after = (_mismatch(part, moving.registration, p) for p in (begin, moved))
        if not after < before:
            return np.zeros_like(start), 0.0
        margins = [m for s, n in zip(box[::-1], fixed.grid[::-1], strict=True) for m in (s.start, n - s.stop)]
        displacement = F.pad((moved - begin)[None], margins, mode="replicate")[0]
        return displacement.cpu().numpy(), 1 - after / before

    def frame_voxels(self, places: np.ndarray) -> np.ndarray:
        """Turn places (3, w, h, d) in the frame into voxels of the first template."""
        center = (np.array(self._frame_shape, np.float32).reshape(3, 1, 1, 1) - 1) / 2
        return (places * self._matcher.radius + center).astype(np.float32)

    def between(self, fixed_places: np.ndarray, moving_places: np.ndarray) -> np.ndarray:
        """Return the affine map from one volume's voxels to another's indices, (3, w, h, d), by both places."""
        matrix, shift = self._affine(fixed_places)
        in_frame = matrix @ np.indices(fixed_places.shape[1:]).reshape(3, -1) + shift
        return self._to_indices(in_frame.reshape(fixed_places.shape), moving_places)

    def _to_indices(self, in_frame: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return the indices (3, w, h, d) in a volume of points in the frame, by the affine part of its places."""
        matrix, shift = self._affine(places)
        return (np.linalg.pinv(matrix) @ (in_frame.reshape(3, -1) - shift)).reshape(in_frame.shape).astype(np.float32)

    def _affine(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix (3, 3) and shift (3, 1) that lead from a volume's indices to its places near structures."""
        near = np.flatnonzero(self._matcher.near_foreground(places, margin=0.0))
        if len(near) < MIN_AFFINE:
            near = np.arange(places[0].size)
        near = near[:: -(-len(near) // MAX_AFFINE)]
        known = np.indices(places.shape[1:]).reshape(3, -1)[:, near]
        values = places.reshape(3, -1)[:, near]
        center, mean = (array.mean(axis=1, keepdims=True) for array in (known, values))
        matrix = np.linalg.lstsq((known - center).T, (values - mean).T, rcond=None)[0].T
        return matrix, mean - matrix @ center


def _mismatch(fixed: Tensor, moving: Tensor, places: Tensor) -> float:
    """Return the mean squared difference of two descriptions at places, judged at every other voxel of each axis."""
    every = (slice(None), *[slice(None, None, 2)] * 3)
    return float((fixed[every] - sample(moving, places[every])).square().mean())


def _extent(marked: np.ndarray) -> slice:
    (found,) = np.nonzero(marked)
    return slice(int(found[0]), int(found[-1]) + 1)
