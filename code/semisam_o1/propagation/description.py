"""What volumes are compared by, voxel by voxel: self-similarity, built-in features, a foundation model's components."""

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
CHANNELS = 20  # that registration compares, of the more than thirty there are
COMPONENTS = 8  # of a foundation model's features, that are added to the built-in ones
COMPONENT_WEIGHT = 0.5


@dataclass(frozen=True)
class Scan:
    """A volume (W, H, D) and, where a foundation model described it, its spatial features."""

    image: np.ndarray
    features: VolumeFeatures | None = None


@dataclass(frozen=True)
class Described:
    """A volume on its working grid.

    Attributes:
        matching: features (F, w, h, d) float32 for the search of matches.
        registration: description (G, w, h, d) float32 for registration.
    """

    matching: np.ndarray
    registration: Tensor

    @property
    def grid(self) -> tuple[int, ...]:
        return self.matching.shape[1:]

    @property
    def nbytes(self) -> int:
        return self.matching.nbytes + self.registration.nbytes


def describe(scan: Scan, grid: Sequence[int], components: Components | None, device: torch.device) -> Described:
    """Compute what a volume is compared by, on a grid over all of it; its registration has all channels there are.

    Args:
        components: of a foundation model's features; None: they are left out.
    """
    image = cell_means(scan.image, grid)
    matching = voxel_features(image)
    if components is not None:
        matching = np.concatenate([matching, components.on_grid(scan.features, scan.image.shape, grid)])
    similarity = self_similarity(torch.from_numpy(image).to(device))
    return Described(matching, torch.cat([SELF_SIMILARITY_WEIGHT * similarity, torch.from_numpy(matching).to(device)]))


def leading_directions(description: Tensor) -> Tensor:
    """Return the directions (CHANNELS, G) in which a description (G, w, h, d) varies most: distances nearly stay."""
    flat = description.flatten(1).double()
    flat = flat - flat.mean(dim=1, keepdim=True)
    _, directions = torch.linalg.eigh(flat @ flat.T)  # by rising strength
    return directions.flip(1)[:, :CHANNELS].T.float().contiguous()


def along(description: Tensor, directions: Tensor) -> Tensor:
    """Return a description (G, w, h, d) along some directions (K, G) only: (K, w, h, d)."""
    return (directions @ description.flatten(1)).unflatten(1, description.shape[1:])


class Components:
    """The principal directions of the templates' features: what sets their places apart."""

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
        # Where the center of each voxel of the grid lies among the cells: the features show the centered patch.
        axes = [
            ((np.arange(n) + 0.5) * size / n - size // 2 + patch // 2) * count / patch - 0.5
            for n, size, patch, count in zip(grid, shape, features.patch_size, cells, strict=True)
        ]
        places = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
        return sample_array(flat.reshape(-1, *cells).astype(np.float32), places)
