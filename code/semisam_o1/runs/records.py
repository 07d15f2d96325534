"""Pseudo-labels: from averaged class probabilities, and on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.hdf5 import open_hdf5, read_array, write_hdf5


@dataclass
class PseudoLabels:
    """The labels of a cohort after one round.

    Attributes:
        labels: uint8 (W, H, D) per volume, the labeled ones' own labels included.
        uncertainty: mean entropy in nats per unlabeled volume; empty after round 0.
        refined: the volumes that their neighbors voted on.
        dice: mean foreground Dice per unlabeled volume whose true label is known.
        confidence: uint8 (W, H, D) per unlabeled volume, 255 times the probability of the label, where it is known.
    """

    labels: dict[str, np.ndarray]
    uncertainty: dict[str, float] = field(default_factory=dict)
    refined: list[str] = field(default_factory=list)
    dice: dict[str, float] = field(default_factory=dict)
    confidence: dict[str, np.ndarray] = field(default_factory=dict)


def mean_entropy(probabilities: Tensor) -> float:
    """Return the mean over voxels of −Σ p ln p in nats, from probabilities (C, W, H, D)."""
    return float(-torch.xlogy(probabilities, probabilities).sum(0).mean(dtype=torch.float64))


def save_pseudo_labels(path: Path, pseudo: PseudoLabels, record: Mapping[str, object]) -> None:
    """Write the labels of a round and its figures: one uint8 dataset per volume, whole or not at all.

    Raises:
        WriteError: if the file cannot be written.
    """

    def fill(file: h5py.File) -> None:
        file.attrs["record"] = json.dumps(record)
        for name, label in pseudo.labels.items():
            dataset = file.create_dataset(name, data=label, compression="gzip", compression_opts=1, fletcher32=True)
            dataset.attrs["refined"] = name in pseudo.refined
            for key, known in (("uncertainty", pseudo.uncertainty), ("dice", pseudo.dice)):
                if name in known:
                    dataset.attrs[key] = known[name]

    write_hdf5(path, fill)


def save_confidence(path: Path, confidence: Mapping[str, np.ndarray]) -> None:
    """Write the confidence of a round's labels: one uint8 dataset per volume, whole or not at all.

    Raises:
        WriteError: if the file cannot be written.
    """

    def fill(file: h5py.File) -> None:
        for name, values in confidence.items():
            file.create_dataset(name, data=values, compression="gzip", compression_opts=1, fletcher32=True)

    write_hdf5(path, fill)


def load_labels(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read the labels uint8 (W, H, D) of the named volumes after a round.

    Raises:
        InputError: if the file is damaged or lacks one.
    """
    with open_hdf5(path) as file:
        return {name: read_array(file, name, path) for name in names}


def load_record(path: Path) -> dict[str, Any] | None:
    """Read the figures of a round, None if there is no whole file."""
    try:
        with open_hdf5(path) as file:
            record = json.loads(file.attrs["record"])
    except InputError:
        return None
    return record if isinstance(record, dict) else None
