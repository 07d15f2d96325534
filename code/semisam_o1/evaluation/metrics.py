"""Overlap and surface distances between two masks, defined as in medpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

SEARCHED_SHARE = 1 / 32  # of the voxels: for more, or far, points a distance map takes less time than a search

METRICS = ("dice", "jaccard", "hd95", "asd")
# What the original gives where a surface is missing, chosen to be worse than any scan's true distance.
BOTH_EMPTY = {"dice": 1.0, "jaccard": 1.0, "hd95": 0.0, "asd": 0.0}
ONE_EMPTY = {"dice": 0.0, "jaccard": 0.0, "hd95": 200.0, "asd": 100.0}


def segmentation_metrics(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> dict[str, float]:
    """Compare two masks of one class.

    Args:
        prediction, truth: boolean (W, H, D).
        spacing: size of a voxel; with (1, 1, 1) distances are in voxels, with millimeters in millimeters.

    Returns:
        dice and jaccard in [0, 1]; hd95, the 95th percentile of both directed surface distances together;
        asd, the mean distance from the prediction's surface to the truth's. An empty mask on both sides
        gives 1, 1, 0, 0, on one side 0, 0, 200, 100.

    Raises:
        ValueError: if the shapes differ.
    """
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape} and truth {truth.shape}; they must be the same")
    union = prediction | truth
    if not union.any():
        return dict(BOTH_EMPTY)
    # Both surfaces lie in the union's bounding box, so no distance changes when everything else is cut off.
    box = tuple(_extent(union.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    prediction, truth = prediction[box], truth[box]
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


def surface_distances(own: np.ndarray, other: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return the distance of every voxel of one surface to the nearest of another.

    Args:
        own, other: boolean (W, H, D), neither empty.
        spacing: size of a voxel.
    """
    # A good prediction's surface shares many voxels with the true one; only the others look for a neighbor.
    apart = ~other[own]
    distance = np.zeros(len(apart))
    if np.count_nonzero(apart) > SEARCHED_SHARE * own.size:
        return distance_transform_edt(~other, sampling=spacing)[own]
    if apart.any():
        places, targets = (np.argwhere(surface) * np.asarray(spacing, float) for surface in (own, other))
        tree = KDTree(targets, balanced_tree=False, compact_nodes=False)
        distance[apart] = tree.query(places[apart])[0]
    return distance


def dice_per_class(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> list[float]:
    """Return the Dice of every foreground class of two label maps (W, H, D); 1 where a class is in neither."""
    pairs = truth.ravel().astype(np.int64) * num_classes + prediction.ravel()
    counts = np.bincount(pairs, minlength=num_classes**2)
    return dice_from_confusion(counts.reshape(num_classes, num_classes))


def dice_from_confusion(counts: np.ndarray) -> list[float]:
    """Return the Dice of every foreground class from voxel counts by (true class, predicted class)."""
    sizes = counts.sum(axis=0) + counts.sum(axis=1)
    return [2 * int(counts[c, c]) / int(sizes[c]) if sizes[c] else BOTH_EMPTY["dice"] for c in range(1, len(counts))]


def _extent(used: np.ndarray) -> slice:
    indices = np.flatnonzero(used)
    return slice(indices[0], indices[-1] + 1)


def _surface(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of a mask with a neighbor across a face that is outside of it, or of the volume."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        inside, source = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        inside[1:] &= source[:-1]
        inside[:-1] &= source[1:]
        inside[[0, -1]] = False
    return mask & ~inner
