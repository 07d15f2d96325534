"""Adaptation of propagated labels to the intensities of the scan itself.

Registration leaves borders that intensities show. The classes' intensity histograms are estimated in the scan, under
its propagated labels; the labels, blurred by the uncertainty of their borders, are the prior of every voxel. Both steps
are repeated (expectation maximization). Van Leemput et al., "Automated Model-Based Tissue Classification of MR Images
of the Brain", IEEE TMI 1999, with histograms in place of Gaussians, since background is a mixture of tissues.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.stats import rankdata

from semisam_o1.propagation.registration import Step

BORDER = 0.7  # units of working resolution: standard deviation of the borders of propagated labels
SMOOTHNESS = 0.5  # units: standard deviation of the smoothing after each step
INTENSITY_WEIGHT = 0.5  # exponent of the likelihood; neighboring voxels are not independent
ITERATIONS = 4
BINS = 32  # of a histogram, with equally many voxels near the structures in each
UNIFORM_SHARE = 0.02  # of every class's histogram
MIN_FOREGROUND = 0.005  # prior probability of foreground from which on a voxel is adapted


def adapt(probabilities: np.ndarray, image: np.ndarray, step: Step) -> np.ndarray:
    """Return class probabilities (C, w, h, d) float32 adapted to an image (w, h, d).

    Args:
        step: distance of the voxels along each axis, in units of the working resolution.
    """
    prior = _blurred(probabilities, BORDER, step)
    near = 1 - prior[0] > MIN_FOREGROUND
    if not near.any():
        return probabilities
    ranks = rankdata(image[near])
    bins = np.minimum(ranks * (BINS / ranks.size), BINS - 1).astype(np.int64)
    adapted = probabilities.copy()
    for _ in range(ITERATIONS):
        likelihood = _histograms(bins, adapted[:, near])[:, bins]
        posterior = prior[:, near] * likelihood**INTENSITY_WEIGHT
        adapted[:, near] = posterior / posterior.sum(axis=0)
        adapted[:, near] = _blurred(adapted, SMOOTHNESS, step)[:, near]
    return adapted


def _histograms(bins: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the smoothed relative frequency (C, BINS) of the bins (n,) in each class, by weights (C, n)."""
    counts = np.stack([np.bincount(bins, weight, BINS) for weight in weights]) + 1e-3
    counts = ndimage.gaussian_filter1d(counts, 1.0, axis=1, mode="nearest")
    shares = counts / counts.sum(axis=1, keepdims=True)
    return ((1 - UNIFORM_SHARE) * shares + UNIFORM_SHARE / BINS).astype(np.float32)


def _blurred(probabilities: np.ndarray, deviation: float, step: Step) -> np.ndarray:
    sigma = [0.0, *(deviation / length for length in step)]
    return ndimage.gaussian_filter(probabilities, sigma, mode="nearest", truncate=3.0)
