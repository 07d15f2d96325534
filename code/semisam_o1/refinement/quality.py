"""How good a label is expected to be where no true label is known: from opinions that came about independently.

Let one opinion be the label and another the truth, each voxel drawn by its probabilities. Their Dice is then about
2 Σpq / (Σp + Σq). It says as much about any anatomy: nothing in it is fitted to a cohort.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from semisam_o1.core.errors import listed

DOUBTFUL = 0.6  # expected Dice below which a label is not to be trusted
TOLERANCE = 0.2  # relative increase of the expected Dice error over round 0, up to which a label is accepted
MEAN_TOLERANCE = 0.1  # the same for the mean over a cohort, beyond which a network has not learned


def expected_dice(opinion: np.ndarray | Tensor, other: np.ndarray | Tensor) -> tuple[float, ...]:
    """Return the expected Dice of every foreground class, 1 where a class is in neither opinion.

    Args:
        opinion, other: class probabilities (C, ...) of the same shape, both arrays or both tensors.
    """
    first, second = (torch.as_tensor(probabilities).flatten(1)[1:] for probabilities in (opinion, other))
    overlap = (first * second).sum(1, dtype=torch.float64)
    size = first.sum(1, dtype=torch.float64) + second.sum(1, dtype=torch.float64)
    dice = 2 * overlap / size.clamp_min(0.5)
    return tuple(torch.where(size > 0.5, dice, torch.ones_like(dice)).tolist())  # half a voxel is none


def one_hot(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Return a label map (...) as an opinion (num_classes, ...) float32 without doubt."""
    return (label[None] == np.arange(num_classes).reshape(-1, *(1,) * label.ndim)).astype(np.float32)


def judge(probabilities: np.ndarray, judges: np.ndarray) -> tuple[float, ...]:
    """Return the expected Dice per foreground class of the label of probabilities (C, ...), by another opinion."""
    return expected_dice(one_hot(probabilities.argmax(0), len(probabilities)), judges)


def error_increase(judged: Sequence[float], first: Sequence[float]) -> float:
    """Return the relative increase of the expected Dice error, 1 − Dice, of a label over that of round 0.

    The judges of round 0 had a part in its label, so the error of a better label may seem a little larger.

    Args:
        judged, first: expected Dice per class of the label and of that of round 0, by the judges of round 0.
    """
    reference = float(np.mean(first))
    return (reference - float(np.mean(judged))) / max(1 - reference, 0.01)


def doubtful(expected: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the volumes that are not to be trusted with their expected Dice, a mean over classes, the worst first."""
    means = {name: float(np.mean(values)) for name, values in expected.items()}
    return dict(sorted(((n, mean) for n, mean in means.items() if mean < DOUBTFUL), key=lambda item: item[1]))


def not_to_be_trusted(expected: Mapping[str, Sequence[float]]) -> str:
    """Return a sentence about the scans whose labels are expected to be bad; empty if there are none."""
    if not (doubts := doubtful(expected)):
        return ""
    scans = listed([f"{name} ({dice:.2f})" for name, dice in doubts.items()], 8)
    return f"not to be trusted, by the Dice expected without truth: {scans}"
