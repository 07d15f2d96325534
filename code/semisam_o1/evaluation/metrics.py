"""Overlap and surface distances between two masks, defined as in medpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, find_objects
from scipy.spatial import KDTree
from torch import Tensor

# Share of query voxels up to which a nearest-neighbor search takes less time than a distance map.
MAX_SEARCH_SHARE = 1 / 32

# Conventions of the original code where a surface is missing; the distances are worse than any scan's true ones.
BOTH_EMPTY = {"dice": 1.0, "jaccard": 1.0, "hd95": 0.0, "asd": 0.0}
ONE_EMPTY = {"dice": 0.0, "jaccard": 0.0, "hd95": 200.0, "asd": 100.0}


def segmentation_metrics(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> dict[str, float]:
    """Compare two masks of one class; raises ValueError if their shapes differ.

    Args:
        prediction, truth: boolean (W, H, D).
        spacing: size of a voxel in mm; the default gives distances in voxels.

    Returns:
        dice and jaccard in [0, 1]; hd95, the 95th percentile of both directed surface distances together;
        asd, the mean distance from the prediction's surface to the truth's. Two empty masks give 1, 1, 0, 0; one empty
        mask gives 0, 0, 200, 100.
    """
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape} and truth {truth.shape}; they must be the same")
    boxes = find_objects((prediction | truth).view(np.uint8))
    if not boxes:
        return dict(BOTH_EMPTY)
    # Both surfaces lie in the bounding box of the union, so cropping to it changes no distance.
    prediction, truth = prediction[boxes[0]], truth[boxes[0]]
    volume_p, volume_t = np.count_nonzero(prediction), np.count_nonzero(truth)
    if not volume_p or not volume_t:
        return dict(ONE_EMPTY)
    intersection = np.count_nonzero(prediction & truth)
    surface_p, surface_t = _surface(prediction), _surface(truth)
    to_truth = surface_distances(surface_p, surface_t, spacing)
    to_prediction = surface_distances(surface_t, surface_p, spacing)
    return {
        "dice": 2 * intersection / (volume_p + volume_t),
        "jaccard": intersection / (volume_p + volume_t - intersection),
        "hd95": float(np.percentile(np.concatenate([to_truth, to_prediction]), 95)),
        "asd": float(to_truth.mean()),
    }


def medpy_metrics(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> dict[str, float]:
    """Compute ``segmentation_metrics`` by medpy, the implementation that published tables were made with; slower."""
    from medpy.metric import binary

    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape} and truth {truth.shape}; they must be the same")
    if not prediction.any() or not truth.any():
        return dict(ONE_EMPTY if prediction.any() or truth.any() else BOTH_EMPTY)
    return {
        "dice": float(binary.dc(prediction, truth)),
        "jaccard": float(binary.jc(prediction, truth)),
        "hd95": float(binary.hd95(prediction, truth, voxelspacing=spacing)),
        "asd": float(binary.asd(prediction, truth, voxelspacing=spacing)),
    }


IMPLEMENTATIONS = {"builtin": segmentation_metrics, "medpy": medpy_metrics}


def surface_distances(surface: np.ndarray, other: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return the distance of every voxel of a surface, boolean (W, H, D), to the nearest one of another, not empty."""
    # The surface of a good prediction shares many voxels with the true one; only the others need a search.
    apart = ~other[surface]
    if np.count_nonzero(apart) > MAX_SEARCH_SHARE * surface.size:
        return distance_transform_edt(~other, sampling=spacing)[surface]
    distances = np.zeros(len(apart))
    if apart.any():
        points, targets = (np.argwhere(mask) * np.asarray(spacing, float) for mask in (surface, other))
        distances[apart] = KDTree(targets, balanced_tree=False, compact_nodes=False).query(points[apart])[0]
    return distances


def dice_per_class(prediction: Tensor | np.ndarray, truth: Tensor | np.ndarray, num_classes: int) -> list[float]:
    """Return the Dice of every foreground class of two label maps (W, H, D); 1 where a class is in neither."""
    labels = (a if isinstance(a, Tensor) else torch.from_numpy(np.ascontiguousarray(a)) for a in (prediction, truth))
    predicted, true = (label.flatten().long() for label in labels)
    pairs = true * num_classes + predicted
    counts = torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).cpu().numpy()
    sizes = counts.sum(axis=0) + counts.sum(axis=1)
    return [2 * int(counts[c, c]) / int(sizes[c]) if sizes[c] else BOTH_EMPTY["dice"] for c in range(1, len(counts))]


def _surface(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of a mask with a face neighbor outside of it, or of the volume; faster than an erosion."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        inside, source = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        inside[1:] &= source[:-1]
        inside[:-1] &= source[1:]
        inside[[0, -1]] = False
    return mask & ~inner
