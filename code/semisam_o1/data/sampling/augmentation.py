"""Random augmentation of patches: spatial deformation, intensity changes, and warps of the template.

Structures that grow and shrink, the fourth kind, are in ``local_zoom``.

Random numbers come from a generator that the caller seeds per item. All computation is on the device of the volumes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semisam_o1.core.device import to_device
from semisam_o1.core.seeding import torch_generator
from semisam_o1.data.sampling.fields import rescale, sample

KINDS = ("spatial", "intensity", "template", "local")

MAX_ANGLE = 12.0  # degrees, about each axis
MAX_LOG_ZOOM = 0.15
ELASTIC_POINTS = 4  # control points per axis of the patch
ELASTIC_DEVIATION = 0.02  # standard deviation of their displacements, as a share of the patch size
MAX_LOG_GAMMA = 0.35
MAX_CONTRAST = 0.25
MAX_BRIGHTNESS = 0.25  # standard deviations of the patch
MAX_NOISE = 0.15  # standard deviations of the patch
BLUR_PROBABILITY = 0.2
QUANTILES = 65
WARP_PROBABILITY = 0.8  # for items that show the template
MAX_WARP_STRENGTH = 1.25  # 1 gives the template the donor's shape


@dataclass(frozen=True)
class Donor:
    """An unlabeled volume whose shape and intensities the template is warped to."""

    shape: tuple[int, int, int]
    # Voxel coordinates in the template that correspond to the donor's, (3, w, h, d) on any grid over its extent.
    template_coords: Tensor
    affine: Tensor  # (3, 4), the least-squares affine fit to them, from voxel coordinates of the donor
    quantiles: Tensor  # of its intensities

    @cached_property
    def host_affine(self) -> np.ndarray:
        """The affine map in host memory: a GPU is waited for once."""
        return self.affine.cpu().numpy()


@dataclass(frozen=True)
class Warps:
    """Warps of the template into the shapes of other volumes; the label is warped with the image.

    Zhao et al., "Data Augmentation Using Learned Transformations for One-Shot Medical Image Segmentation", CVPR 2019.
    """

    template: str  # name of the labeled volume that is warped
    quantiles: Tensor  # of its intensities
    donors: Sequence[Donor]


@dataclass(frozen=True)
class Warp:
    """One warp of the template to a donor."""

    donor: Donor
    strength: float  # 0 for the affine map alone, 1 for the donor's shape, above 1 for an exaggeration of it
    style: float  # share of the intensity matching with the donor, from 0 to 1

    def to(self, device: torch.device) -> Warp:
        """Return the warp on a device; copies to a GPU are asynchronous."""
        tensors = (self.donor.template_coords, self.donor.affine, self.donor.quantiles)
        donor = Donor(self.donor.shape, *(to_device(tensor, device) for tensor in tensors))
        return replace(self, donor=donor)

    def donor_voxel(self, voxel: np.ndarray) -> np.ndarray:
        """Return where in the donor a voxel (3,) of the template is shown, by the affine map alone."""
        affine = self.donor.host_affine
        return np.linalg.pinv(affine[:, :3]) @ (voxel - affine[:, 3])


@dataclass(frozen=True)
class Augmentation:
    """The augmentations that are switched on."""

    spatial: bool = False  # rotation, zoom and elastic deformation
    intensity: bool = False  # gamma, contrast, brightness, noise and blur
    warps: Warps | None = None
    local: bool = False  # structures grow and shrink
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of the volumes, in mm

    @property
    def active(self) -> bool:
        """Whether any is."""
        return self.spatial or self.intensity or self.local or self.warps is not None

    def draw_warp(self, name: str, generator: np.random.Generator) -> Warp | None:
        """Draw a warp for an item of volume ``name``; None for volumes other than the template, and at random."""
        if self.warps is None or name != self.warps.template:
            return None
        share, strength, style = generator.random(3)
        donor = self.warps.donors[generator.integers(len(self.warps.donors))]
        return Warp(donor, strength * MAX_WARP_STRENGTH, style) if share < WARP_PROBABILITY else None

    def change_appearance(self, patch: Tensor, warp: Warp | None, generator: np.random.Generator) -> Tensor:
        """Return a patch (w, h, d) with changed intensities."""
        if warp:
            own = to_device(self.warps.quantiles, patch.device)
            patch = match_intensity(patch, own, warp.donor.quantiles, warp.style)
        return change_intensity(patch, generator) if self.intensity else patch


def draw_deformation(
    size: Sequence[int], generator: np.random.Generator, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> np.ndarray:
    """Draw a rotation, zoom and elastic deformation of a patch of ``size`` (w, h, d) about its center.

    Angles are those in space: counted in voxels, a turn by 12 degrees would move the rim of a patch by many slices
    where slices are thick.

    Returns:
        The matrix (3, 3) of rotation and zoom, and the displacements of the control points in voxels; flat, float32.
    """
    angles = np.radians(generator.uniform(-MAX_ANGLE, MAX_ANGLE, 3))
    zoom = np.exp(generator.uniform(-MAX_LOG_ZOOM, MAX_LOG_ZOOM, 3))
    elastic = generator.standard_normal((3, *(ELASTIC_POINTS,) * 3)) * ELASTIC_DEVIATION
    elastic *= np.array(size).reshape(3, 1, 1, 1)
    rotation = np.eye(3)
    for (i, j), angle in zip(((1, 2), (0, 2), (0, 1)), angles, strict=True):
        about_axis = np.eye(3)
        about_axis[np.ix_([i, j], [i, j])] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        rotation = rotation @ about_axis
    rotation *= np.array(spacing) / np.reshape(spacing, (3, 1))  # from mm to voxels
    return np.concatenate([(rotation * zoom).ravel(), elastic.ravel()]).astype(np.float32)


def deform(voxel_coords: Tensor, deformation: Tensor) -> Tensor:
    """Apply a deformation of ``draw_deformation`` to the voxel coordinates (3, w, h, d) of a patch."""
    matrix, elastic = deformation[:9].view(3, 3), deformation[9:].view(1, 3, *(ELASTIC_POINTS,) * 3)
    center = voxel_coords.mean(dim=(1, 2, 3), keepdim=True)
    rotated = torch.einsum("ij,j...->i...", matrix, voxel_coords - center) + center
    return rotated + F.interpolate(elastic, voxel_coords.shape[1:], mode="trilinear", align_corners=True)[0]


def deformed_bounds(start: Sequence[int], size: Sequence[int], deformation: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return bounds (3,) and (3,) of the coordinates that ``deform`` makes of a patch's voxels."""
    half = (np.array(size) - 1) / 2
    reach = np.abs(deformation[:9].reshape(3, 3)) @ half
    elastic = deformation[9:].reshape(3, -1)
    center = np.array(start) + half
    return center - reach + elastic.min(axis=1), center + reach + elastic.max(axis=1)


def warp_coords(voxel_coords: Tensor, warp: Warp) -> Tensor:
    """Convert voxel coordinates (3, w, h, d) in the donor of a warp to voxel coordinates in the template."""
    donor = warp.donor
    affine = torch.einsum("ij,j...->i...", donor.affine[:, :3], voxel_coords) + donor.affine[:, 3].view(3, 1, 1, 1)
    coords = donor.template_coords
    deformable = sample(coords, rescale(voxel_coords, donor.shape, coords.shape[1:]))
    return torch.lerp(affine, deformable, warp.strength)


def change_intensity(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Change gamma, contrast, brightness and noise of a patch (w, h, d), and blur some patches."""
    gamma = math.exp(generator.uniform(-MAX_LOG_GAMMA, MAX_LOG_GAMMA))
    contrast = 1 + generator.uniform(-MAX_CONTRAST, MAX_CONTRAST)
    brightness = generator.uniform(-MAX_BRIGHTNESS, MAX_BRIGHTNESS)
    noise = generator.uniform(0, MAX_NOISE)
    blurred = generator.random() < BLUR_PROBABILITY
    seed = int(generator.integers(2**62))
    low = image.amin()
    span = (image.amax() - low).clamp_min(1e-6)
    if blurred:
        image = F.avg_pool3d(F.pad(image[None, None], [1] * 6, mode="replicate"), 3, stride=1)[0, 0]
    image = ((image - low) / span).clamp(0, 1) ** gamma * span + low
    mean, deviation = image.mean(), image.std()
    image = (image - mean) * contrast + mean + brightness * deviation
    draw = torch.randn(image.shape, generator=torch_generator(seed, device=image.device), device=image.device)
    return image + noise * deviation * draw


def resample_at(volume: Tensor, voxel_coords: Tensor, nearest: bool) -> Tensor:
    """Return a volume (W, H, D) at voxel coordinates (3, w, h, d) in the volume's type, zeros outside."""
    return sample(volume[None].float(), voxel_coords, "nearest" if nearest else "bilinear", "zeros")[0].to(volume.dtype)


def quantiles(image: Tensor) -> Tensor:
    """Return the intensity quantiles of an image, for ``match_intensity``."""
    flat = image.flatten()[:: max(1, image.numel() // 100_000)]
    return torch.quantile(flat, torch.linspace(0, 1, QUANTILES, device=image.device))


def match_intensity(image: Tensor, own: Tensor, other: Tensor, strength: float) -> Tensor:
    """Match the intensities of an image with quantiles ``own`` to quantiles ``other``, by a share ``strength``."""
    upper = torch.searchsorted(own, image.contiguous()).clamp(1, QUANTILES - 1)
    share = ((image - own[upper - 1]) / (own[upper] - own[upper - 1]).clamp_min(1e-6)).clamp(0, 1)
    return torch.lerp(image, torch.lerp(other[upper - 1], other[upper], share), strength)
