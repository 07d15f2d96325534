"""Voxel-wise descriptions: self-similarity, built-in features, components of a foundation model's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semisam_o1.data.sampling.fields import sample_array
from semisam_o1.features.builtin import voxel_features
from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.propagation.region import Region
from semisam_o1.propagation.registration import Channels, Step, self_similarity

SELF_SIMILARITY_WEIGHT = 6.0  # beside the built-in features, in registration
CHANNELS = 20  # principal directions that registration compares, of more than thirty channels
COMPONENTS = 8  # of a foundation model's features, added to the built-in ones
COMPONENT_WEIGHT = 0.5


@dataclass(frozen=True)
class VolumeDescription:
    """A region of a volume on its working grid (w, h, d).

    Attributes:
        region: the region.
        matching: features (F, w, h, d) float32 for the nearest-neighbor search.
        registration: description (G, w', h', d') for registration, on the same grid or a coarser one. Those that are
            kept are in host memory, and copied to the device where they are used: on a GPU they would take the room
            that training needs.
    """

    region: Region
    matching: np.ndarray
    registration: Channels

    @property
    def grid(self) -> tuple[int, ...]:
        return self.matching.shape[1:]

    def project(self, directions: Tensor) -> VolumeDescription:
        """Return the description with its registration channels projected onto directions (K, G)."""
        values = torch.tensordot(directions, self.registration.values, 1)
        return VolumeDescription(self.region, self.matching, Channels(values, self.registration.step))


class FeatureComponents:
    """Principal components of the templates' spatial features."""

    def __init__(self, templates: Sequence[VolumeFeatures]) -> None:
        cells = np.concatenate([part.spatial.reshape(len(part.spatial), -1) for part in templates], axis=1)
        self._mean = cells.mean(axis=1, keepdims=True)
        directions, strength, _ = np.linalg.svd(cells - self._mean, full_matrices=False)
        deviation = np.maximum(strength[:COMPONENTS] / np.sqrt(cells.shape[1]), 1e-6)
        self._directions = COMPONENT_WEIGHT * directions[:, :COMPONENTS].T / deviation[:, None]

    def at(self, features: VolumeFeatures, shape: Sequence[int], voxel_coords: np.ndarray) -> np.ndarray:
        """Return the components (K, w, h, d) float32 of a volume of ``shape`` at its voxel coordinates (3, w, h, d)."""
        cells = features.spatial.shape[1:]
        flat = self._directions @ (features.spatial.reshape(len(features.spatial), -1) - self._mean)
        # The cells cover the centered patch.
        cell_coords = np.stack(
            [
                (position + 0.5 - size // 2 + patch // 2) * count / patch - 0.5
                for position, size, patch, count in zip(voxel_coords, shape, features.patch_size, cells, strict=True)
            ]
        )
        return sample_array(flat.reshape(-1, *cells).astype(np.float32), cell_coords.astype(np.float32))


def describe(
    reduced: np.ndarray,
    step: Step,
    coarseness: int,
    components: np.ndarray | None,
    device: torch.device,
) -> tuple[np.ndarray, Channels]:
    """Describe an image (w, h, d) on its working grid: features for matching, and all channels for registration.

    Args:
        step: distance of the cells along each axis, in units of the working resolution.
        coarseness: factor by which registration reduces the resolution.
        components: (K, w, h, d) float32 to compare beside the descriptions, None for none.
        device: of the channels.
    """
    matching = voxel_features(reduced, step)
    if components is not None:
        matching = np.concatenate([matching, components])
    similarity = self_similarity(torch.from_numpy(reduced).to(device), step)
    values = torch.cat([SELF_SIMILARITY_WEIGHT * similarity, torch.from_numpy(matching).to(device)])
    return matching, reduced_channels(Channels(values, step), coarseness)


def reduced_channels(channels: Channels, coarseness: int) -> Channels:
    """Return channels at a resolution that is lower by a factor, their step in units that are longer by it."""
    shape = channels.values.shape[1:]
    grid = reduced_grid(shape, channels.step, coarseness)
    values = channels.values if grid == list(shape) else F.adaptive_avg_pool3d(channels.values[None], grid)[0]
    step = tuple(length * n / g / coarseness for length, n, g in zip(channels.step, shape, grid, strict=True))
    return Channels(values, step)


def reduced_grid(shape: Sequence[int], step: Step, coarseness: int) -> list[int]:
    """Return the cells per axis of a grid (w, h, d) at a resolution that is lower by a factor."""
    return [-(-n // max(1, round(coarseness / length))) for n, length in zip(shape, step, strict=True)]


def principal_directions(description: Tensor) -> Tensor:
    """Return the directions (CHANNELS, G) in which a description (G, w, h, d) varies most."""
    flat = description.flatten(1).double()
    flat = flat - flat.mean(dim=1, keepdim=True)
    _, directions = torch.linalg.eigh(flat @ flat.T)  # in ascending order of their eigenvalues
    return directions.flip(1)[:, :CHANNELS].T.float().contiguous()
