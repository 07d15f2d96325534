"""Features computed from the volumes themselves, for users without the foundation model's checkpoint.

Every voxel is described by its intensity rank, edges, curvature and texture at several scales. One volume takes a few
seconds on one core; the same input gives the same output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import rankdata

MAX_VOXELS = 4_000_000  # features are computed on at most so many voxels of a volume
CELL = 4  # voxels per cell of the spatial feature and axis
REGIONS = 4  # per axis, of the global feature
INTENSITY_SCALES = (1.0, 2.0, 4.0, 8.0)  # voxels, as all scales here
EDGE_SCALES = (1.0, 2.0, 4.0)
TEXTURE_SCALES = (2.0, 4.0)
SHAPE_SCALES = (2.0, 4.0, 8.0)
TEXTURE_WEIGHT = 0.7
SLOPE_WEIGHT = 0.7
CURVATURE_WEIGHT = 0.5
NUM_CHANNELS = len(INTENSITY_SCALES) + len(EDGE_SCALES) + len(TEXTURE_SCALES) + 4 * len(SHAPE_SCALES)


def voxel_features(image: np.ndarray, step: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Describe the neighborhood of every voxel of an image (W, H, D), of any size and range, at several scales.

    Intensities are replaced by their ranks in the volume first. A scanner's intensity scale, outliers and any
    increasing change of contrast therefore make no difference.

    Args:
        step: distance of the voxels along each axis; a scale of 1 is one unit of it.

    Returns:
        (C, W, H, D) float32. Channels: smoothed intensity, gradient magnitude, local standard deviation, and per
        scale the three signed derivatives and the Laplacian. Each has mean 0 and a standard deviation equal to the
        weight of its kind; a channel without contrast is 0.
    """
    ranks = (rankdata(image).reshape(image.shape) / image.size - 0.5).astype(np.float32)
    smoothed = {scale: _smooth(ranks, scale, step) for scale in INTENSITY_SCALES}
    slopes = {scale: [_slope(smoothed[scale], axis, step) for axis in range(3)] for scale in INTENSITY_SCALES}
    channels = [_standardized(smoothed[scale], 1.0) for scale in INTENSITY_SCALES]
    for scale in EDGE_SCALES:
        x, y, z = slopes[scale]
        channels.append(_standardized(np.sqrt(x * x + y * y + z * z), 1.0))
    for scale in TEXTURE_SCALES:
        variance = _smooth(ranks * ranks, scale, step) - smoothed[scale] ** 2
        channels.append(_standardized(np.sqrt(np.maximum(variance, 0)), TEXTURE_WEIGHT))
    for scale in SHAPE_SCALES:
        channels += [_standardized(slope, SLOPE_WEIGHT) for slope in slopes[scale]]
        channels.append(_standardized(_curvature(smoothed[scale], step), CURVATURE_WEIGHT))
    return np.stack(channels)


def _smooth(volume: np.ndarray, scale: float, step: Sequence[float]) -> np.ndarray:
    return ndimage.gaussian_filter(volume, [scale / length for length in step], mode="nearest", truncate=3.0)


def _slope(volume: np.ndarray, axis: int, step: Sequence[float]) -> np.ndarray:
    half = 0.5 / step[axis]
    return ndimage.correlate1d(volume, [-half, 0.0, half], axis=axis, mode="nearest")


def _curvature(volume: np.ndarray, step: Sequence[float]) -> np.ndarray:
    weights = [length**-2 for length in step]
    return sum(
        ndimage.correlate1d(volume, [weight, -2 * weight, weight], axis=axis, mode="nearest")
        for axis, weight in enumerate(weights)
    )


def _standardized(channel: np.ndarray, weight: float) -> np.ndarray:
    deviation = channel.std(dtype=np.float64)
    if deviation < 1e-6:  # rounding noise of a volume without contrast must not be blown up
        return np.zeros_like(channel)
    return (channel - channel.mean(dtype=np.float64)).astype(np.float32) * np.float32(weight / deviation)


def cell_means(array: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Average (..., W, H, D) over the cells of a coarser grid, as float32: voxel v lies in cell v · grid // size.

    ``resize_nearest`` from the grid to the volume's size shows every voxel the cell it lies in.
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
    """Computes features from the volumes themselves."""

    key = f"builtin-cell{CELL}-v1"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the spatial feature (C, gw, gh, gd) float32 of a volume (W, H, D); the grid is ceil(shape / CELL)."""
        grid = [-(-size // CELL) for size in image.shape]
        reduction = 1  # of large volumes, whose features would take minutes and gigabytes; at most to the cells
        while reduction < CELL and image.size > MAX_VOXELS * reduction**3:
            reduction += 1
        reduced = cell_means(image, [-(-size // reduction) for size in image.shape]) if reduction > 1 else image
        return cell_means(voxel_features(reduced), grid)

    def patch_size(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the patch that the spatial feature of a volume of ``shape`` covers: all of it."""
        return tuple(int(size) for size in shape)

    def global_feature(self, spatial: np.ndarray) -> np.ndarray:
        """Describe a volume by the mean of its spatial feature (C, gw, gh, gd) in each of REGIONS³ regions.

        Channels are standardized per volume; their mean over the volume would be the same for all volumes.

        Returns:
            (C · REGIONS³,) float32 of unit length. A volume without contrast gets the constant vector, which is
            orthogonal to that of every other volume.
        """
        tensor = torch.from_numpy(np.ascontiguousarray(spatial, dtype=np.float32))
        regions = torch.nn.functional.adaptive_avg_pool3d(tensor, REGIONS).flatten(1).double()
        vector = (regions - regions.mean(dim=1, keepdim=True)).flatten()
        if vector.norm() < 1e-6:
            vector = torch.ones_like(vector)
        return (vector / vector.norm()).float().numpy()
