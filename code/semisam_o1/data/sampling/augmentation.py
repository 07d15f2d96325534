"""Random changes to what a patch shows: where it looks, how bright it is, and warps of the template.

Random numbers come from a generator that the caller seeds per item, and all of an item's are drawn whatever is switched
on after it. Everything is computed on the device that the volumes lie on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semisam_o1.core.seeding import torch_generator
from semisam_o1.data.sampling.fields import indices, rescale, sample

KINDS = ("spatial", "intensity", "template")

MAX_ANGLE = 12.0  # degrees, about each axis
MAX_ZOOM = 0.15
ELASTIC_CELLS = 4  # per axis of the patch
ELASTIC_SHIFT = 0.02  # of the patch, standard deviation
MAX_GAMMA = 0.35  # of its logarithm
MAX_CONTRAST = 0.25
MAX_BRIGHTNESS = 0.25  # standard deviations of the patch
MAX_NOISE = 0.15  # the same
BLUR_SHARE = 0.2  # of the patches
QUANTILES = 65
WARP_SHARE = 0.8  # of the labeled items that show a warped template
MAX_EXAGGERATION = 1.25  # how far a warp may go, 1 being the volume it was found on


@dataclass(frozen=True)
class Donor:
    """An unlabeled volume that lends its shape and its intensities.

    Attributes:
        shape: (W, H, D).
        places: where its voxels lie in the template, in voxels, (3, w, h, d) on any grid over it.
        affine: (3, 4), the affine map from its voxels to the template's that is nearest to that.
        quantiles: of its intensities.
    """

    shape: tuple[int, int, int]
    places: Tensor
    affine: Tensor
    quantiles: Tensor


@dataclass(frozen=True)
class Warps:
    """The template in the shapes of other volumes, with an exact label.

    Zhao et al., "Data Augmentation Using Learned Transformations for One-Shot Medical Image Segmentation", CVPR 2019.

    Attributes:
        template: name of the labeled volume that is warped.
        quantiles: of its intensities.
    """

    template: str
    quantiles: Tensor
    donors: Sequence[Donor]


@dataclass(frozen=True)
class Warp:
    """One warp of the template.

    Attributes:
        strength: 0 is the affine map alone, 1 the donor's shape; beyond that, a caricature.
        style: how far intensities are brought towards the donor's, from 0 to 1.
    """

    donor: Donor
    strength: float
    style: float


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random: where patches look, their intensities, the template's shape."""

    spatial: bool = False
    intensity: bool = False
    warps: Warps | None = None

    def draw_warp(self, name: str, generator: np.random.Generator) -> Warp | None:
        """Return how the template is to be warped this time; None for other volumes and, now and then, for it."""
        if self.warps is None or name != self.warps.template:
            return None
        share, strength, style = generator.random(3)
        donor = self.warps.donors[generator.integers(len(self.warps.donors))]
        return Warp(donor, strength * MAX_EXAGGERATION, style) if share < WARP_SHARE else None

    def places(
        self,
        start: Sequence[int],
        size: Sequence[int],
        warp: Warp | None,
        generator: np.random.Generator,
        device: torch.device,
    ) -> Tensor:
        """Return where the voxels of a patch of ``size`` at ``start`` look, (3, w, h, d) in voxels of the volume."""
        places = indices(size, device) + torch.tensor(start, device=device).view(3, 1, 1, 1)
        if self.spatial:
            places = spatial_places(places, generator)
        return warped_places(places, warp) if warp else places

    def appearance(self, patch: Tensor, warp: Warp | None, generator: np.random.Generator) -> Tensor:
        """Return a patch (w, h, d) with other intensities."""
        if warp:
            patch = match_intensity(patch, self.warps.quantiles, warp.donor.quantiles, warp.style)
        return change_intensity(patch, generator) if self.intensity else patch


NO_AUGMENTATION = Augmentation()


def spatial_places(places: Tensor, generator: np.random.Generator) -> Tensor:
    """Turn, zoom and bend the places (3, w, h, d) that a patch looks at, around their center."""
    angles = np.radians(generator.uniform(-MAX_ANGLE, MAX_ANGLE, 3))
    zoom = np.exp(generator.uniform(-MAX_ZOOM, MAX_ZOOM, 3))
    size = np.array(places.shape[1:]).reshape(3, 1, 1, 1)
    bends = generator.standard_normal((3, *(ELASTIC_CELLS,) * 3)) * ELASTIC_SHIFT * size
    matrix = torch.from_numpy(_rotation(angles) * zoom).to(places)
    center = places.mean(dim=(1, 2, 3), keepdim=True)
    turned = torch.einsum("ij,j...->i...", matrix, places - center) + center
    return turned + _resized(torch.from_numpy(bends).to(places), places.shape[1:])


def _rotation(angles: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    for (i, j), angle in zip(((1, 2), (0, 2), (0, 1)), angles, strict=True):
        turn = np.eye(3)
        turn[[i, j], [i, j]] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def warped_places(places: Tensor, warp: Warp) -> Tensor:
    """Turn places (3, w, h, d) in the donor of a warp into places in the template."""
    donor = warp.donor
    affine = torch.einsum("ij,j...->i...", donor.affine[:, :3], places) + donor.affine[:, 3].view(3, 1, 1, 1)
    own = sample(donor.places, rescale(places, donor.shape, donor.places.shape[1:]))
    return torch.lerp(affine, own, warp.strength)


def change_intensity(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Change gamma, contrast, brightness and noise of a patch (w, h, d), and blur some."""
    gamma = math.exp(generator.uniform(-MAX_GAMMA, MAX_GAMMA))
    contrast = 1 + generator.uniform(-MAX_CONTRAST, MAX_CONTRAST)
    brightness = generator.uniform(-MAX_BRIGHTNESS, MAX_BRIGHTNESS)
    noise = generator.uniform(0, MAX_NOISE)
    blurred = generator.random() < BLUR_SHARE
    seed = int(generator.integers(2**62))
    low, high = image.amin(), image.amax()
    reach = (high - low).clamp_min(1e-6)
    if blurred:
        image = F.avg_pool3d(F.pad(image[None, None], [1] * 6, mode="replicate"), 3, stride=1)[0, 0]
    image = ((image - low) / reach).clamp(0, 1) ** gamma * reach + low
    mean, deviation = image.mean(), image.std()
    image = (image - mean) * contrast + mean + brightness * deviation
    draw = torch.randn(image.shape, generator=torch_generator(seed, device=image.device), device=image.device)
    return image + noise * deviation * draw


def look(volume: Tensor | None, places: Tensor, nearest: bool) -> Tensor | None:
    """Return what a volume (W, H, D) shows at places (3, w, h, d), zeros outside, in the volume's type."""
    if volume is None:
        return None
    values = sample(volume[None].float(), places, "nearest" if nearest else "bilinear", "zeros")[0]
    return values.to(volume.dtype)


def quantiles(image: Tensor) -> Tensor:
    """Return the quantiles of an image that ``match_intensity`` maps by."""
    flat = image.flatten()
    flat = flat[:: max(1, len(flat) // 100_000)]
    return torch.quantile(flat, torch.linspace(0, 1, QUANTILES, device=image.device))


def match_intensity(image: Tensor, own: Tensor, other: Tensor, strength: float) -> Tensor:
    """Bring an image with quantiles ``own`` towards the intensities of a volume with quantiles ``other``."""
    upper = torch.searchsorted(own, image.contiguous()).clamp(1, QUANTILES - 1)
    share = ((image - own[upper - 1]) / (own[upper] - own[upper - 1]).clamp_min(1e-6)).clamp(0, 1)
    matched = torch.lerp(other[upper - 1], other[upper], share)
    return torch.lerp(image, matched, strength)


def _resized(field: Tensor, shape: Sequence[int]) -> Tensor:
    return F.interpolate(field[None], tuple(shape), mode="trilinear", align_corners=True)[0]
