"""Correction of the prediction of a volume outside of the cohort, by the cohort's volumes and their labels.

As in the fusion of ``neighbors``, volumes that are like it are registered to it, and so is the template. In place of
predictions they bring the labels that the cohort has after a round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from semisam_o1.data.dataset.prediction import Prediction
from semisam_o1.propagation.cohort import CohortAtlas

SHARE = 0.45  # of neighbors and templates; less than one half, so that what the network is certain of stays
KEPT_LABELS = 16  # of the cohort, on their working grids


class CohortCorrection:
    """Corrects predictions by the labels of a cohort. Safe to use from several threads.

    Args:
        atlas: of the cohort. The volumes to correct are known to it beside those of the cohort.
        label: name → label of an unlabeled volume of the cohort.
    """

    def __init__(self, atlas: CohortAtlas, label: Callable[[str], Prediction]):
        self.atlas, self._label = atlas, label
        self._in_cohort = lru_cache(KEPT_LABELS)(self._probabilities)

    def __call__(self, name: str, probabilities: Tensor) -> Tensor:
        """Return the network's class probabilities (C, W, H, D) of a volume, corrected, in float32 on the CPU.

        What is certain stays, and nothing changes outside of the region that is registered.
        """
        own = probabilities.float().cpu()
        by_neighbors = self.atlas.fuse_neighbors(name, lambda other: self._in_cohort(other).astype(np.float32))
        others = (by_neighbors + self.atlas.consensus(name)) / 2
        return (1 - SHARE) * own + SHARE * self.atlas.on_volume(name, others, elsewhere=own)

    def _probabilities(self, name: str) -> np.ndarray:
        """Return the class probabilities (C, w, h, d) that the label of a volume of the cohort stands for."""
        if name in self.atlas.access.labeled:
            return self.atlas.registered(name).probabilities
        probabilities = as_probabilities(self._label(name), self.atlas.access.num_classes)
        return self.atlas.on_grid(name, probabilities)


def as_probabilities(prediction: Prediction, num_classes: int) -> Tensor:
    """Return class probabilities (C, W, H, D): the confidence in the label, and the rest for all other classes alike.

    Where the confidence is not known, it is 1.
    """
    label = torch.from_numpy(prediction.label).long()
    known = prediction.confidence is not None
    confidence = torch.from_numpy(prediction.confidence) / 255 if known else torch.ones(label.shape)
    others = (1 - confidence) / (num_classes - 1)
    return others.repeat(num_classes, 1, 1, 1).scatter_(0, label[None], confidence[None])
