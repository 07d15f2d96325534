"""Features computed from the volumes themselves, for users without the foundation model's checkpoint.

Every voxel is described by its intensity rank, edges, curvature and texture at several scales. A few
seconds a volume on one core; the same input gives the same output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import rankdata

MAX_VOXELS = 4_000_000  # that features are computed on
INTENSITY_SCALES = (1.0, 2.0, 4.0, 8.0)  # voxels, as all scales here
EDGE_SCALES = (1.0, 2.0, 4.0)
TEXTURE_SCALES = (2.0, 4.0)
SHAPE_SCALES = (2.0, 4.0, 8.0)
TEXTURE_WEIGHT = 0.7
SLOPE_WEIGHT = 0.7
CURVATURE_WEIGHT = 0.5
NUM_CHANNELS = len(INTENSITY_SCALES) + len(EDGE_SCALES) + len(TEXTURE_SCALES) + 4 * len(SHAPE_SCALES)


def voxel_features(image: np.ndarray) -> np.ndarray:
    """Describe every voxel by its surroundings at several scales.

    Intensities are replaced by their ranks in the volume first, so a scanner's intensity scale, its
    outliers and any increasing change of contrast make no difference.

    Args:
        image: (W, H, D), of any size and range.

    Returns:
        (C, W, H, D) float32. Channels: smoothed intensity, gradient magnitude, local deviation, and per
        scale the three signed derivatives and the Laplacian. Each has mean 0 over the volume and a
        deviation of 1 times its kind's weight; a channel without any contrast is 0 throughout.
    """
    ranks = (rankdata(image).reshape(image.shape) / image.size - 0.5).astype(np.float32)
    smoothed = {scale: _smooth(ranks, scale) for scale in INTENSITY_SCALES}
    slopes = {scale: [_slope(smoothed[scale], axis) for axis in range(3)] for scale in INTENSITY_SCALES}
    channels = [_standardized(smoothed[scale], 1.0) for scale in INTENSITY_SCALES]
    for scale in EDGE_SCALES:
        x, y, z = slopes[scale]
        channels.append(_standardized(np.sqrt(x * x + y * y + z * z), 1.0))
    for scale in TEXTURE_SCALES:
        variance = _smooth(ranks * ranks, scale) - smoothed[scale] ** 2
        channels.append(_standardized(np.sqrt(np.maximum(variance, 0)), TEXTURE_WEIGHT))
    for scale in SHAPE_SCALES:
        channels += [_standardized(slope, SLOPE_WEIGHT) for slope in slopes[scale]]
        channels.append(_standardized(ndimage.laplace(smoothed[scale], mode="nearest"), CURVATURE_WEIGHT))
    return np.stack(channels)


def _smooth(volume: np.ndarray, scale: float) -> np.ndarray:
    return ndimage.gaussian_filter(volume, scale, mode="nearest", truncate=3.0)


def _slope(volume: np.ndarray, axis: int) -> np.ndarray:
    return ndimage.correlate1d(volume, [-0.5, 0.0, 0.5], axis=axis, mode="nearest")


def _standardized(channel: np.ndarray, weight: float) -> np.ndarray:
    deviation = channel.std(dtype=np.float64)
    if deviation < 1e-6:  # rounding noise of a volume without contrast must not be blown up
        return np.zeros_like(channel)
    return (channel - channel.mean(dtype=np.float64)).astype(np.float32) * np.float32(weight / deviation)


def cell_means(array: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Average (..., W, H, D) over the cells of a coarser grid: voxel v lies in cell v · grid // size.

    ``resize_nearest`` from the grid to the volume's size shows every voxel the cell it lies in.

    Returns:
        (..., gw, gh, gd) float32; no axis of ``grid`` may be longer than the volume's.
    """
    means = array.astype(np.float32)
    for axis, cells in enumerate(grid, start=array.ndim - 3):
        size = array.shape[axis]
        starts = -(-np.arange(cells) * size // cells)
        counts = np.diff(starts, append=size).astype(np.float32)
        shape = [-1 if other == axis else 1 for other in range(array.ndim)]
        means = np.add.reduceat(means, starts, axis=axis) / counts.reshape(shape)
    return means


class BuiltinFeatures:
    """Turns a volume into the spatial and the global feature, as the foundation model would.

    Attributes:
        name: names the features on disk.
        version: changes whenever the numbers do, so that kept features are not mixed up.
        cell: voxels per cell of the spatial feature and axis.
    """

    name = "builtin"
    version = 1

    def __init__(self, cell: int = 4) -> None:
        self.cell = cell

    @property
    def key(self) -> str:
        return f"{self.name}-cell{self.cell}-v{self.version}"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the spatial feature of a volume (W, H, D).

        Returns:
            (C, gw, gh, gd) float32; the grid is ceil(shape / cell).
        """
        grid = [-(-size // self.cell) for size in image.shape]
        reduction = 1  # of large scans, whose features would take minutes and gigabytes; never beyond the cells
        while reduction < self.cell and image.size > MAX_VOXELS * reduction**3:
            reduction += 1
        reduced = cell_means(image, [-(-size // reduction) for size in image.shape]) if reduction > 1 else image
        return cell_means(voxel_features(reduced), grid)

    def patch_size(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the patch that the spatial feature of a volume of ``shape`` covers: all of it."""
        width, height, depth = (int(size) for size in shape)
        return width, height, depth

    def global_feature(self, spatial: np.ndarray, bins: int = 4) -> np.ndarray:
        """Describe a whole volume by how its spatial feature varies over ``bins``³ regions.

        Channels are standardized per volume, so their plain mean would be the same for all volumes.

        Args:
            spatial: (C, gw, gh, gd) of any grid.

        Returns:
            (C · bins³,) float32 of unit length. A volume without contrast gets the constant vector,
            which is orthogonal to that of every other volume.
        """
        tensor = torch.from_numpy(np.ascontiguousarray(spatial, dtype=np.float32))
        regions = torch.nn.functional.adaptive_avg_pool3d(tensor, bins).flatten(1).double()
        vector = (regions - regions.mean(dim=1, keepdim=True)).flatten()
        length = vector.norm()
        if length < 1e-6:
            vector = torch.ones_like(vector)
            length = vector.norm()
        return (vector / length).float().numpy()
