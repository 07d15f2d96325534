"""Label propagation by registration and voxel-wise matches.

Each volume is aligned with the template by its matches; deformable registration refines the alignment. Two
segmentations are averaged: the template's label, warped by the registration, and the vote of the matches that are
searched again around the registered coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from semisam_o1.core.device import to_device
from semisam_o1.data.dataset.prediction import Prediction
from semisam_o1.data.sampling.fields import resize, sample, sample_array
from semisam_o1.features.builtin import cell_means
from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.propagation.description import FeatureComponents, VolumeDescription, describe, principal_directions
from semisam_o1.propagation.matching import TemplateMatcher, mean_radius, working_grid
from semisam_o1.propagation.registration import box_mean, register

COARSE_RADIUS = 9.0  # voxels; larger structures are registered at half the resolution
MIN_AFFINE, MAX_AFFINE = 30, 20_000  # voxels that an affine map is fitted to
VOTE_WINDOW = 9  # voxels per axis
VOTE_SHARE = 1e-3  # of warped foreground in that window, above which a voxel's matches vote


class Template(NamedTuple):
    """Image (W, H, D) float32 and label (W, H, D) of a labeled volume, and features if volumes are compared by them."""

    image: np.ndarray
    label: np.ndarray
    features: VolumeFeatures | None = None


@dataclass(frozen=True)
class RegisteredVolume:
    """A volume registered to the first template.

    Attributes:
        frame_coords: coordinates of its voxels in the template's frame (see ``matching``), (3, w, h, d) float32 on the
            working grid.
        probabilities: class probabilities (num_classes, w, h, d) float32 on the working grid.
        relative_improvement: relative decrease of the mismatch by deformable registration; 0 if the alignment by
            matches was used.
    """

    frame_coords: np.ndarray
    probabilities: np.ndarray
    relative_improvement: float = 0.0


class AtlasPropagation:
    """Propagates the labels of one or several templates to other volumes of the cohort.

    Args:
        templates: of any sizes. Either all volumes of the cohort have features or none.
        num_classes: background included.
        registration: whether to register deformably after the alignment by matches.

    Attributes:
        templates: the templates in the frame of the first one.

    Raises:
        ValueError: if a label is not below ``num_classes``.
    """

    def __init__(
        self,
        templates: Sequence[Template],
        num_classes: int,
        device: torch.device | str = "cpu",
        registration: bool = True,
    ) -> None:
        highest = max(template.label.max() for template in templates)
        if highest >= num_classes:
            raise ValueError(f"a template's label holds {highest}, with {num_classes} classes")
        self.num_classes, self.device, self.registration = num_classes, torch.device(device), registration
        first = templates[0]
        self._frame_shape = first.image.shape
        grid, radius = self.grid(self._frame_shape), mean_radius(first.label)
        self._sampling = 2 if radius * max(grid) / max(self._frame_shape) > COARSE_RADIUS else 1
        features = [template.features for template in templates if template.features is not None]
        self._components = FeatureComponents(features) if features else None
        described = [self._describe_fully(template.image, template.features) for template in templates]
        self._directions = principal_directions(described[0].registration)
        self._described = [self._kept(description) for description in described]
        votes = [
            np.stack([cell_means(template.label == c, description.grid) for c in range(num_classes)])
            for template, description in zip(templates, described, strict=True)
        ]
        pairs = [(description.matching, vote) for description, vote in zip(described, votes, strict=True)]
        self._matcher = TemplateMatcher(pairs, self._frame_shape, radius)
        self.templates = list(map(RegisteredVolume, self._matcher.template_coords, votes))

    def grid(self, shape: Sequence[int]) -> list[int]:
        """Return the working grid of a volume of ``shape``."""
        return working_grid(shape, self._frame_shape)

    def describe(self, image: np.ndarray, features: VolumeFeatures | None = None) -> VolumeDescription:
        """Describe an image (W, H, D) on its working grid, by arrays in host memory."""
        return self._kept(self._describe_fully(image, features))

    def _describe_fully(self, image: np.ndarray, features: VolumeFeatures | None) -> VolumeDescription:
        return describe(image, features, self.grid(image.shape), self._components, self.device)

    def _kept(self, description: VolumeDescription) -> VolumeDescription:
        """Return the part of a description that registration compares, in host memory."""
        projected = description.project(self._directions)
        return replace(projected, registration=projected.registration.cpu())

    def register(self, volume: VolumeDescription) -> RegisteredVolume:
        """Register a volume to the templates and label it on its working grid."""
        aligned = self._matcher.align(volume.matching).astype(np.float32)
        warped = np.zeros((self.num_classes, *volume.grid), np.float32)
        if not self.registration:
            warped[0] = 1  # far from any structure
            inside = self._matcher.near_foreground(aligned, margin=1.0)
            warped[:, inside] = self._matcher.votes(volume.matching[:, inside], aligned[:, inside])
            return RegisteredVolume(aligned, warped)
        frame_coords, relative_improvement = aligned, 0.0
        for index, template in enumerate(self.templates):
            start = self._to_voxel_coords(aligned, template.frame_coords)
            displacement, improvement = self.register_pair(volume, aligned, self._described[index], start)
            warped += sample_array(template.probabilities, start + displacement) / len(self.templates)
            if index == 0 and improvement > 0:
                relative_improvement = improvement
                frame_coords = sample_array(template.frame_coords, start + displacement)
        # Farther from the warped foreground, matches would only vote for background, slowly.
        near = box_mean(torch.from_numpy(1 - warped[:1]), VOTE_WINDOW)[0].numpy() > VOTE_SHARE
        warped[:, near] = (warped[:, near] + self._matcher.votes(volume.matching[:, near], frame_coords[:, near])) / 2
        return RegisteredVolume(frame_coords, warped, relative_improvement)

    def label(self, image: np.ndarray, features: VolumeFeatures | None = None) -> Prediction:
        """Segment one image (W, H, D) without the rest of the cohort."""
        probabilities = torch.from_numpy(self.register(self.describe(image, features)).probabilities)
        return Prediction.from_probabilities(resize(probabilities, image.shape))

    def register_pair(
        self, fixed: VolumeDescription, frame_coords: np.ndarray, moving: VolumeDescription, start: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Register one volume, with its ``frame_coords``, to another near the structures.

        Returns:
            The displacement (3, w, h, d) float32 from the voxel coordinates ``start``, extrapolated from the border of
            the registered region, and the relative decrease of the mismatch. Both are 0 if it did not decrease.
        """
        start_coords = torch.from_numpy(start).to(self.device)
        inside = self._matcher.near_foreground(frame_coords, margin=1.0)
        if not inside.any():
            return np.zeros_like(start), 0.0
        (box,) = ndimage.find_objects(inside.astype(np.uint8))
        part, start_coords = (array[(slice(None), *box)] for array in (fixed.registration, start_coords))
        part, moving_field = (to_device(field, self.device) for field in (part, moving.registration))
        found = register(part, moving_field, start_coords, self._sampling)
        every = (slice(None), *[slice(None, None, 2)] * 3)
        mismatches = [
            (part[every] - sample(moving_field, coords[every])).square().mean() for coords in (start_coords, found)
        ]
        before, after = torch.stack(mismatches).tolist()
        if not after < before:
            return np.zeros_like(start), 0.0
        margins = [m for s, n in zip(box[::-1], fixed.grid[::-1], strict=True) for m in (s.start, n - s.stop)]
        displacement = F.pad((found - start_coords)[None], margins, mode="replicate")[0]
        return displacement.cpu().numpy(), 1 - after / before

    def template_coords(self, frame_coords: np.ndarray) -> np.ndarray:
        """Convert frame coordinates (3, w, h, d) to voxel coordinates in the first template, at full resolution."""
        center = (np.array(self._frame_shape, np.float32).reshape(3, 1, 1, 1) - 1) / 2
        return (frame_coords * self._matcher.radius + center).astype(np.float32)

    def affine_coords(self, fixed: RegisteredVolume, moving: RegisteredVolume) -> np.ndarray:
        """Return voxel coordinates (3, w, h, d) in one volume of the other's voxels, by the affine part of both."""
        matrix, shift = self._affine(fixed.frame_coords)
        in_frame = matrix @ np.indices(fixed.frame_coords.shape[1:]).reshape(3, -1) + shift
        return self._to_voxel_coords(in_frame.reshape(fixed.frame_coords.shape), moving.frame_coords)

    def _to_voxel_coords(self, points: np.ndarray, frame_coords: np.ndarray) -> np.ndarray:
        """Convert points (3, w, h, d) in the frame to voxel coordinates in a volume, by the affine part of its own."""
        matrix, shift = self._affine(frame_coords)
        return (np.linalg.pinv(matrix) @ (points.reshape(3, -1) - shift)).reshape(points.shape).astype(np.float32)

    def _affine(self, frame_coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit a matrix (3, 3) and a shift (3, 1) from voxel coordinates to frame coordinates, near the structures."""
        near = np.flatnonzero(self._matcher.near_foreground(frame_coords, margin=0.0))
        if len(near) < MIN_AFFINE:
            near = np.arange(frame_coords[0].size)
        near = near[:: -(-len(near) // MAX_AFFINE)]
        known = np.indices(frame_coords.shape[1:]).reshape(3, -1)[:, near]
        values = frame_coords.reshape(3, -1)[:, near]
        center, mean = (array.mean(axis=1, keepdims=True) for array in (known, values))
        matrix = np.linalg.lstsq((known - center).T, (values - mean).T, rcond=None)[0].T
        return matrix, mean - matrix @ center
