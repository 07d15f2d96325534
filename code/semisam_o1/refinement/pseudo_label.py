"""Pseudo-labels: from averaged class probabilities, and on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor


@dataclass
class PseudoLabels:
    """The labels of a cohort after one round.

    Attributes:
        labels: uint8 (W, H, D) per volume, the labelled ones' own labels included.
        uncertainty: mean entropy in nats per unlabelled volume; empty after round 0.
        refined: the volumes that their neighbours voted on.
        dice: mean foreground Dice per unlabelled volume whose true label is known.
    """

    labels: dict[str, np.ndarray]
    uncertainty: dict[str, float] = field(default_factory=dict)
    refined: list[str] = field(default_factory=list)
    dice: dict[str, float] = field(default_factory=dict)


def mean_entropy(probabilities: Tensor) -> float:
    """Return the mean over voxels of −Σ p ln p in nats, from probabilities (C, W, H, D)."""
    return float(-torch.xlogy(probabilities, probabilities).sum(0).mean(dtype=torch.float64))


def label_map(probabilities: Tensor) -> Tensor:
    """Return the most probable class of each voxel, uint8 (W, H, D); ties go to the lower class."""
    return probabilities.argmax(0).to(torch.uint8)


def save_pseudo_labels(path: Path, pseudo: PseudoLabels, record: Mapping[str, object]) -> None:
    """Write the labels of a round and its figures: one uint8 dataset per volume, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with h5py.File(partial, "w") as file:
        file.attrs["record"] = json.dumps(record)
        for name, label in pseudo.labels.items():
            dataset = file.create_dataset(name, data=label, compression="gzip", compression_opts=1)
            dataset.attrs["refined"] = name in pseudo.refined
            for key, known in (("uncertainty", pseudo.uncertainty), ("dice", pseudo.dice)):
                if name in known:
                    dataset.attrs[key] = known[name]
    partial.replace(path)


def load_labels(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read the labels uint8 (W, H, D) of the named volumes after a round."""
    with h5py.File(path, "r") as file:
        return {name: file[name][()] for name in names}


def load_record(path: Path) -> dict | None:
    """Read the figures of a round, None if there is no whole file."""
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file.attrs["record"])
    except (OSError, KeyError, ValueError):
        return None
