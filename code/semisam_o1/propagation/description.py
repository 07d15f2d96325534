"""Voxel-wise descriptions: self-similarity, built-in features, components of a foundation model's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semisam_o1.data.sampling.fields import sample_array
from semisam_o1.features.builtin import cell_means, voxel_features
from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.propagation.registration import self_similarity

SELF_SIMILARITY_WEIGHT = 6.0  # beside the built-in features, in registration
CHANNELS = 20  # principal directions that registration compares, of more than thirty channels
COMPONENTS = 8  # of a foundation model's features, added to the built-in ones
COMPONENT_WEIGHT = 0.5


@dataclass(frozen=True)
class VolumeDescription:
    """A volume on its working grid (w, h, d).

    Attributes:
        matching: features (F, w, h, d) float32 for the nearest-neighbor search.
        registration: description (G, w, h, d) float32 for registration. Those that are kept are in host memory, and
            copied to the device where they are used: on a GPU they would take the room that training needs.
    """

    matching: np.ndarray
    registration: Tensor

    @property
    def grid(self) -> tuple[int, ...]:
        return self.matching.shape[1:]

    def project(self, directions: Tensor) -> VolumeDescription:
        """Return the description with its registration channels projected onto directions (K, G)."""
        return VolumeDescription(self.matching, torch.tensordot(directions, self.registration, 1))


class FeatureComponents:
    """Principal components of the templates' spatial features."""

    def __init__(self, templates: Sequence[VolumeFeatures]) -> None:
        cells = np.concatenate([part.spatial.reshape(len(part.spatial), -1) for part in templates], axis=1)
        self._mean = cells.mean(axis=1, keepdims=True)
        directions, strength, _ = np.linalg.svd(cells - self._mean, full_matrices=False)
        deviation = np.maximum(strength[:COMPONENTS] / np.sqrt(cells.shape[1]), 1e-6)
        self._directions = COMPONENT_WEIGHT * directions[:, :COMPONENTS].T / deviation[:, None]

    def on_grid(self, features: VolumeFeatures, shape: Sequence[int], grid: Sequence[int]) -> np.ndarray:
        """Return the components (K, w, h, d) float32 of a volume of ``shape`` on a grid over all of it."""
        cells = features.spatial.shape[1:]
        flat = self._directions @ (features.spatial.reshape(len(features.spatial), -1) - self._mean)
        # Positions of the grid's voxel centers among the cells, which cover the centered patch.
        axes = [
            ((np.arange(n) + 0.5) * size / n - size // 2 + patch // 2) * count / patch - 0.5
            for n, size, patch, count in zip(grid, shape, features.patch_size, cells, strict=True)
        ]
        cell_coords = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
        return sample_array(flat.reshape(-1, *cells).astype(np.float32), cell_coords)


def describe(
    image: np.ndarray,
    features: VolumeFeatures | None,
    grid: Sequence[int],
    components: FeatureComponents | None,
    device: torch.device,
) -> VolumeDescription:
    """Describe an image (W, H, D) on a grid over all of it, with all channels, those of registration on ``device``.

    The foundation model's ``features`` are read only if there are ``components``.
    """
    reduced = cell_means(image, grid)
    matching = voxel_features(reduced)
    if components is not None:
        matching = np.concatenate([matching, components.on_grid(features, image.shape, grid)])
    similarity = self_similarity(torch.from_numpy(reduced).to(device))
    registration = torch.cat([SELF_SIMILARITY_WEIGHT * similarity, torch.from_numpy(matching).to(device)])
    return VolumeDescription(matching, registration)


def principal_directions(description: Tensor) -> Tensor:
    """Return the directions (CHANNELS, G) in which a description (G, w, h, d) varies most."""
    flat = description.flatten(1).double()
    flat = flat - flat.mean(dim=1, keepdim=True)
    _, directions = torch.linalg.eigh(flat @ flat.T)  # in ascending order of their eigenvalues
    return directions.flip(1)[:, :CHANNELS].T.float().contiguous()
