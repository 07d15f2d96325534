"""A calibrated decision: a bias per class on the log-probabilities, estimated on scans whose true label is known.

A network draws a structure as generously as the template is drawn. A few validation labels show by how much the
decision has to be shifted. Few labels allow a rough estimate alone, so it is shrunk towards none, and it is not used
where it plainly costs on scans that it was not estimated on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MIN_SCANS = 3  # with a label, from which on a bias is estimated
MIN_SHOWN = 2  # of the scans that a bias is estimated on, which show its class
LARGEST, STEP = 1.5, 0.25  # of the biases that are tried, in nats
SHRINKAGE = 5  # n scans count as n / (n + SHRINKAGE) of what they say
SWEEPS = 2  # over the classes, each of which is fitted with the others held


@dataclass(frozen=True)
class Decision:
    """A bias per class, background included and 0 there, and what it gains on scans left out of its estimation."""

    bias: tuple[float, ...]
    gain: float  # of the mean foreground Dice


@dataclass(frozen=True)
class DoubtfulVoxels:
    """What a bias can change in one scan, and the counts of all the rest.

    Attributes:
        log_probabilities: float32 (C, n) of the n voxels whose class a bias can change.
        truth: true classes (n,) of these.
        certain: confusion matrix (C, C) of the other voxels, true class by predicted class.
    """

    log_probabilities: np.ndarray
    truth: np.ndarray
    certain: np.ndarray

    @classmethod
    def of(cls, probabilities: Tensor, label: Tensor) -> DoubtfulVoxels:
        """Take them from class probabilities (C, W, H, D) and the true label (W, H, D)."""
        logs = probabilities.clamp_min(1e-12).log().flatten(1)
        truth, classes = label.to(logs.device).flatten().long(), len(logs)
        best, second = logs.topk(2, dim=0).values
        doubtful = best - second < 2 * LARGEST
        pairs = truth[~doubtful] * classes + logs[:, ~doubtful].argmax(0)
        certain = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        return cls(*(part.cpu().numpy() for part in (logs[:, doubtful], truth[doubtful], certain)))

    def voxels(self, c: int) -> int:
        """Return the number of a class's voxels in the true label."""
        return int(self.certain[c].sum() + (self.truth == c).sum())

    def dice(self, bias: np.ndarray) -> float:
        """Return the mean foreground Dice with a bias (C,)."""
        classes = len(bias)
        pairs = self.truth * classes + (self.log_probabilities + bias[:, None]).argmax(axis=0)
        counts = self.certain + np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        sizes = (counts.sum(axis=0) + counts.sum(axis=1))[1:]
        hits = 2 * np.diagonal(counts)[1:]
        return float(np.mean(np.where(sizes > 0, hits / np.maximum(sizes, 1), 1.0)))


class _Scores:
    """The Dice of scans with biases, each computed once: the fits that leave one scan out share nearly all of them."""

    def __init__(self, scans: Sequence[DoubtfulVoxels]):
        self._scans, self._known = scans, {}

    def dice(self, index: int, bias: np.ndarray) -> float:
        key = (index, *bias.tolist())
        if key not in self._known:
            self._known[key] = self._scans[index].dice(bias)
        return self._known[key]

    def shown(self, indices: Sequence[int], c: int) -> int:
        """Return in how many of the scans a class is to be seen."""
        return sum(self._scans[i].voxels(c) > 0 for i in indices)


def calibrate(scans: Sequence[DoubtfulVoxels], num_classes: int) -> Decision | None:
    """Return the bias estimated on labeled scans; None where they are too few or it plainly does not pay.

    Every scan is left out once: the bias estimated on the others must not lower its Dice, on average by more than the
    standard error of that average. To ask for a gain would cost more than it saves: few scans seldom show one.
    """
    if len(scans) < MIN_SCANS:
        return None
    scores, everyone, none = _Scores(scans), range(len(scans)), np.zeros(num_classes)
    gains = []
    for left_out in everyone:
        bias = _shrunk_bias(scores, [i for i in everyone if i != left_out], num_classes)
        gains.append(scores.dice(left_out, bias) - scores.dice(left_out, none))
    gain, error = float(np.mean(gains)), _standard_error(gains)
    bias = _shrunk_bias(scores, everyone, num_classes)
    if gain < -error or not bias.any():
        return None
    return Decision(tuple(bias.tolist()), gain)


def reliability(dice: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return, per class, the mean Dice of scans over the mean that was expected of them; 1 where none was."""
    mean, promised = np.mean(dice, axis=0), np.mean(expected, axis=0)
    return tuple(np.where(promised > 0, mean / np.maximum(promised, 1e-6), 1.0).tolist())


@dataclass(frozen=True)
class Measured:
    """What scans with a label say about a network's predictions; None where it was not measured.

    Attributes:
        reliability: see ``reliability``, of the predictions.
        corrected_reliability: the same, once the cohort's labels have corrected them.
        correction_gain: of the mean foreground Dice by that correction.
        correction_error: standard error of that mean over the scans; None for a single scan.
    """

    reliability: tuple[float, ...] | None = None
    corrected_reliability: tuple[float, ...] | None = None
    correction_gain: float | None = None
    correction_error: float | None = None

    @classmethod
    def of(
        cls,
        alone: Sequence[Sequence[float]],
        corrected: Sequence[Sequence[float]] | None,
        expected: Sequence[Sequence[float]],
    ) -> Measured:
        """Take it from the Dice of every scan and class: of predictions, of corrected ones, and what was expected."""
        if corrected is None:
            return cls(reliability(alone, expected))
        gains = np.mean(corrected, axis=1) - np.mean(alone, axis=1)
        error = _standard_error(gains) if len(gains) > 1 else None
        return cls(reliability(alone, expected), reliability(corrected, expected), float(np.mean(gains)), error)


def _standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of at least two values."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def shifted(probabilities: Tensor, bias: Sequence[float] | None) -> Tensor:
    """Return class probabilities (C, W, H, D) with a bias per class on their logarithms; themselves without one."""
    if bias is None:
        return probabilities
    factors = torch.tensor(bias, dtype=probabilities.dtype, device=probabilities.device).exp()
    weighted = probabilities * factors.view(-1, 1, 1, 1)
    return weighted / weighted.sum(0).clamp_min(1e-12)


def _shrunk_bias(scores: _Scores, scans: Sequence[int], num_classes: int) -> np.ndarray:
    """Return the bias (C,) with the highest mean Dice over scans, class by class, shrunk by the number of scans.

    A class that hardly any scan shows keeps none: it could take voxels of others at no cost.
    """
    bias = np.zeros(num_classes)
    values = np.arange(-LARGEST, LARGEST + STEP / 2, STEP)
    values = values[np.argsort(np.abs(values), kind="stable")]  # of equals, the smallest bias
    classes = [c for c in range(1, num_classes) if scores.shown(scans, c) >= MIN_SHOWN]
    for _ in range(SWEEPS):
        for c in classes:
            tried = np.repeat(bias[None], len(values), axis=0)
            tried[:, c] = values
            bias = tried[int(np.argmax([np.mean([scores.dice(i, b) for i in scans]) for b in tried]))]
    return bias * len(scans) / (len(scans) + SHRINKAGE)
