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

from semisam_o1.data.dataset.prediction import Prediction
from semisam_o1.data.sampling.fields import rescale, resize, sample, sample_array
from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.propagation.affine import fit_near
from semisam_o1.propagation.description import FeatureComponents, VolumeDescription, describe, principal_directions
from semisam_o1.propagation.locating import Locator
from semisam_o1.propagation.matching import TemplateMatcher
from semisam_o1.propagation.region import Pose, Region, structures
from semisam_o1.propagation.registration import (
    Channels,
    PairRegistration,
    Step,
    box_mean,
    displaced,
    local_mismatch,
    register,
)

VOTE_WINDOW = 9  # units
VOTE_SHARE = 1e-3  # of warped foreground in that window, above which a voxel's matches vote
TEMPLATE_SLACK = 0.75  # additional margin of the templates, in mean radii, for matches on all sides of a structure
VOXEL = (1.0, 1.0, 1.0)  # spacing that counts voxels, where it is not known


class Template(NamedTuple):
    """Image (W, H, D) float32 and label (W, H, D) of a labeled volume, and features if volumes are compared by them."""

    image: np.ndarray
    label: np.ndarray
    features: VolumeFeatures | None = None
    spacing: Step = VOXEL


@dataclass(frozen=True)
class RegisteredVolume:
    """A volume registered to the first template.

    Attributes:
        region: the part of the volume that was registered.
        frame_coords: coordinates of its cells in the template's frame (see ``matching``), (3, w, h, d) float32 on the
            working grid.
        probabilities: class probabilities (num_classes, w, h, d) float32 on the working grid.
        relative_improvement: relative decrease of the mismatch by deformable registration; 0 if the alignment by
            matches was used.
    """

    region: Region
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
        self._structures, self._spacing = structures(first.label, first.spacing), first.spacing
        self._locator = Locator(first.image, first.spacing, self._structures)
        self._coarseness = self._structures.coarseness
        features = [template.features for template in templates if template.features is not None]
        self._components = FeatureComponents(features) if features else None
        regions = self._template_regions(templates)
        described = [
            self._describe_fully(template.image, region, template.features)
            for template, region in zip(templates, regions, strict=True)
        ]
        self._directions = principal_directions(described[0].registration.values)
        self._channels = [self._kept(description).registration for description in described]
        votes = [
            np.stack([region.reduce(template.label == c) for c in range(num_classes)])
            for template, region in zip(templates, regions, strict=True)
        ]
        starts = [region.frame_coords(self._structures.radius) for region in regions]
        matching = [description.matching for description in described]
        self._matcher = TemplateMatcher(list(zip(matching, votes, starts, strict=True)))
        self.templates = list(map(RegisteredVolume, regions, self._matcher.template_coords, votes))

    def _template_regions(self, templates: Sequence[Template]) -> list[Region]:
        """Return the templates' regions, which hold the structures of all of them."""
        poses = [Pose(self._structures.center)]
        for template in templates[1:]:
            pose = self._locator.find(template.image, template.spacing)
            spacing = [template.spacing[axis] for axis in pose.axes]
            self._structures = self._structures.extended(structures(pose.reorient(template.label), spacing), pose)
            poses.append(pose)
        return [
            self._structures.region(template.image.shape, template.spacing, pose, slack=TEMPLATE_SLACK)
            for template, pose in zip(templates, poses, strict=True)
        ]

    def find(self, image: np.ndarray, spacing: Step = VOXEL) -> Region:
        """Return the region of an image (W, H, D) that shows the template's structures."""
        pose = self._locator.find(image, spacing)
        return self._structures.region(image.shape, spacing, pose)

    def step(self, region: Region) -> Step:
        """Return the distance of a region's cells along each axis, in units of the working resolution."""
        return tuple(length / self._structures.unit for length in region.step)

    def describe(self, image: np.ndarray, region: Region, features: VolumeFeatures | None = None) -> VolumeDescription:
        """Describe the region of an image (W, H, D) on its working grid, by arrays in host memory."""
        return self._kept(self._describe_fully(image, region, features))

    def _describe_fully(self, image: np.ndarray, region: Region, features: VolumeFeatures | None) -> VolumeDescription:
        components = None
        if self._components is not None:
            components = self._components.at(features, image.shape, region.voxel_coords())
        reduced, step = region.reduce(image), self.step(region)
        return VolumeDescription(region, *describe(reduced, step, self._coarseness, components, self.device))

    def _kept(self, description: VolumeDescription) -> VolumeDescription:
        """Return the part of a description that registration compares, in host memory."""
        projected = description.project(self._directions)
        return replace(projected, registration=projected.registration.on(torch.device("cpu")))

    def register(self, volume: VolumeDescription) -> RegisteredVolume:
        """Register a volume to the templates and label it on its working grid."""
        start = volume.region.frame_coords(self._structures.radius)
        aligned = self._matcher.align(volume.matching, start).astype(np.float32)
        warped = np.zeros((self.num_classes, *volume.grid), np.float32)
        if not self.registration:
            warped[0] = 1  # far from any structure
            inside = self._matcher.near_foreground(aligned, margin=1.0)
            warped[:, inside] = self._matcher.votes(volume.matching[:, inside], aligned[:, inside])
            return RegisteredVolume(volume.region, aligned, warped)
        frame_coords, relative_improvement = aligned, 0.0
        for index, template in enumerate(self.templates):
            begin = self._to_cell_coords(aligned, template.frame_coords)
            other = self._channels[index], template.region.grid
            pair = self.register_pair(volume.registration, *other, [begin])
            places = self.displace(begin, pair.displacement, template.region)
            warped += sample_array(template.probabilities, places) / len(self.templates)
            if index == 0 and pair.improvement > 0:
                relative_improvement = pair.improvement
                frame_coords = sample_array(template.frame_coords, places)
        # Farther from the warped foreground, matches would only vote for background, slowly.
        near = box_mean(torch.from_numpy(1 - warped[:1]), VOTE_WINDOW, self.step(volume.region))[0].numpy() > VOTE_SHARE
        warped[:, near] = (warped[:, near] + self._matcher.votes(volume.matching[:, near], frame_coords[:, near])) / 2
        return RegisteredVolume(volume.region, frame_coords, warped, relative_improvement)

    def label(self, image: np.ndarray, spacing: Step = VOXEL, features: VolumeFeatures | None = None) -> Prediction:
        """Segment one image (W, H, D) without the rest of the cohort."""
        region = self.find(image, spacing)
        registered = self.register(self.describe(image, region, features))
        return Prediction.from_probabilities(region.paste(registered.probabilities))

    def register_pair(
        self, fixed: Channels, moving: Channels, moving_grid: Sequence[int], starts: Sequence[np.ndarray]
    ) -> PairRegistration:
        """Register one volume to another, from the one of several starts that fits best.

        Args:
            moving_grid: the moving volume's working grid; that of its channels may be coarser.
            starts: initial cell coordinates in the moving volume, (3, w, h, d) each, on the fixed one's working grid.
        """
        part, other = (channels.on(self.device) for channels in (fixed, moving))
        grid = part.values.shape[1:]

        def mismatch(coords: torch.Tensor) -> float:
            return float((part.values - sample(other.values, coords)).square().mean())

        reduced = [resize(torch.from_numpy(start).to(self.device), grid) for start in starts]
        candidates = [rescale(coords, moving_grid, other.values.shape[1:]) for coords in reduced]
        mismatches = [mismatch(coords) for coords in candidates]
        best = int(np.argmin(mismatches))
        displacement = register(part, other, candidates[best])
        after = mismatch(displaced(candidates[best], displacement, other.step))
        if not after < mismatches[best]:
            return PairRegistration(best, np.zeros(displacement.shape, np.float32), 0.0)
        return PairRegistration(best, displacement.cpu().numpy() * self._coarseness, 1 - after / mismatches[best])

    def displace(self, cell_coords: np.ndarray, displacement: np.ndarray, region: Region) -> np.ndarray:
        """Return cell coordinates (3, w, h, d) in a region, moved by a displacement in working units on any grid."""
        resized = resize(torch.from_numpy(displacement), cell_coords.shape[1:])
        return displaced(torch.from_numpy(cell_coords), resized, self.step(region)).numpy()

    def template_coords(self, volume: RegisteredVolume) -> np.ndarray:
        """Return the voxel coordinates in the first template of a grid over a whole volume, (3, w, h, d) float32."""
        cells = volume.region.cell_coords()
        matrix, shift = self._affine(volume.frame_coords)
        inner = np.indices(volume.frame_coords.shape[1:]).reshape(3, -1)
        residual = volume.frame_coords - (matrix @ inner + shift).reshape(volume.frame_coords.shape)
        affine = (matrix @ cells.reshape(3, -1) + shift).reshape(cells.shape)
        frame_coords = affine + sample_array(residual.astype(np.float32), cells)
        center, spacing = (np.array(values).reshape(3, 1, 1, 1) for values in (self._structures.center, self._spacing))
        return ((frame_coords * self._structures.radius + center) / spacing).astype(np.float32)

    def mismatch(self, channels: Channels, registered: RegisteredVolume) -> torch.Tensor:
        """Return the ``local_mismatch`` of a registered volume, described by channels, and the first template."""
        fixed, moving = (each.on(self.device) for each in (channels, self._channels[0]))
        template = self.templates[0].frame_coords
        cells = torch.from_numpy(self._to_cell_coords(registered.frame_coords, template))
        return local_mismatch(fixed, moving, cells, template.shape[1:])

    def pair_starts(self, fixed: RegisteredVolume, moving: RegisteredVolume) -> list[np.ndarray]:
        """Return cell coordinates (3, w, h, d) in one volume of the other's cells: by the affine part of both
        registrations, and by the middles of both scans."""
        matrix, shift = self._affine(fixed.frame_coords)
        in_frame = matrix @ np.indices(fixed.frame_coords.shape[1:]).reshape(3, -1) + shift
        by_template = self._to_cell_coords(in_frame.reshape(fixed.frame_coords.shape), moving.frame_coords)
        own, others = (volume.region.centered().frame_coords(self._structures.radius) for volume in (fixed, moving))
        return [by_template, self._to_cell_coords(own, others)]

    def _to_cell_coords(self, points: np.ndarray, frame_coords: np.ndarray) -> np.ndarray:
        """Convert points (3, w, h, d) in the frame to cell coordinates in a volume, by the affine part of its own."""
        matrix, shift = self._affine(frame_coords)
        return (np.linalg.pinv(matrix) @ (points.reshape(3, -1) - shift)).reshape(points.shape).astype(np.float32)

    def _affine(self, frame_coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit a matrix (3, 3) and a shift (3, 1) from cell coordinates to frame coordinates, near the structures."""
        return fit_near(frame_coords, self._matcher.near_foreground(frame_coords, margin=0.0))
