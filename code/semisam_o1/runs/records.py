"""What a finished round leaves: its figures and its label files, read and written here alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from semisam_o1.core.atomic_io import write_json
from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.hdf5 import open_hdf5, read_array, write_hdf5
from semisam_o1.refinement.pseudo_labels import PseudoLabels, class_balanced
from semisam_o1.runs.layout import RunFolder

OF_TRAINING = (
    "validation_dice",
    "best_iteration",
    "decision_bias",
    "decision_gain",
    "correction_gain",
    "correction_error",
    "reliability",
    "corrected_reliability",
    "kept",
)
STORED = {"compression": "gzip", "compression_opts": 1, "fletcher32": True}


@dataclass(frozen=True)
class RoundRecord:
    """The figures of a finished round."""

    round: int  # 0 for the propagated labels, then those of training
    foreground_ratio: float  # mean share of foreground voxels in the pseudo-labels
    uncertainty: float | None  # mean entropy in nats over the unlabeled volumes; None in round 0
    refined: tuple[str, ...]  # names of the volumes whose labels were corrected by their neighbors
    refined_share: float  # of the unlabeled volumes
    pseudo_dice: float | None  # mean foreground Dice of the pseudo-labels, None where no true label is known
    pseudo_dice_per_class: tuple[float, ...] | None  # the same per foreground class
    seconds: float  # duration of the round
    validation_dice: float | None = None  # mean foreground Dice of the kept network; None where nothing validates it
    best_iteration: int | None = None  # of that network; None in round 0
    decision_bias: tuple[float, ...] | None = None  # on its log-probabilities, per class; None for none
    decision_gain: float | None = None  # of the validation Dice by that bias, on scans left out of its estimation
    correction_gain: float | None = None  # of the validation Dice, by correction with the cohort's labels
    correction_error: float | None = None  # standard error of that; None where it is not known
    reliability: tuple[float, ...] | None = None  # Dice over that expected by the network's probabilities, per class
    corrected_reliability: tuple[float, ...] | None = None  # the same for the Dice of corrected predictions
    expected_dice: float | None = None  # mean over scans and classes, estimated without true labels; None if unknown
    expected_dice_per_class: tuple[float, ...] | None = None
    turned: tuple[str, ...] = ()  # in round 0: volumes in another orientation than the template, with it, as text
    kept: tuple[str, ...] = ()  # names of the volumes that keep their label of the round before

    @property
    def trained(self) -> bool:
        return self.best_iteration is not None

    @property
    def corrects(self) -> bool:
        """Whether the cohort's labels should correct predictions: unless that plainly cost on validation scans."""
        gain, error = (x if isinstance(x, (int, float)) else 0.0 for x in (self.correction_gain, self.correction_error))
        return gain >= -error

    @property
    def refused(self) -> bool:
        """Whether all volumes keep their label of the round before: the network has not learned."""
        return bool(self.kept) and not self.refined

    def to_json(self) -> dict[str, Any]:
        """Return the record as it stands in files: round 0 has no entries on training."""
        values = dataclasses.asdict(self)
        return values if self.trained else {key: value for key, value in values.items() if key not in OF_TRAINING}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RoundRecord:
        """Take back what ``to_json`` returned; raises ValueError if it is not the record of a round."""
        known = {item.name for item in dataclasses.fields(cls)}
        try:
            values = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items() if key in known}
            return cls(**values)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"not the record of a round ({error})") from None

    def logged(self) -> dict[str, float]:
        """Return the figures of the pseudo-labels by their tag in TensorBoard."""
        keys = ("foreground_ratio", "uncertainty", "refined_share", "pseudo_dice", "expected_dice")
        values = {f"pseudo_labels/{key}": getattr(self, key) for key in keys if getattr(self, key) is not None}
        for key, per_class in (("dice", self.pseudo_dice_per_class), ("expected_dice", self.expected_dice_per_class)):
            values |= {f"pseudo_labels/{key}_class{c}": dice for c, dice in enumerate(per_class or (), start=1)}
        return values

    def describe(self) -> str:
        """Return one line about the round."""
        parts = [f"foreground {100 * self.foreground_ratio:.2f} %"]
        if self.pseudo_dice is not None:
            per_class = self.pseudo_dice_per_class
            classes = f" ({' '.join(f'{dice:.4f}' for dice in per_class)})" if len(per_class) > 1 else ""
            parts.append(f"pseudo-label Dice {self.pseudo_dice:.4f}{classes}")
        if self.expected_dice is not None:
            parts.append(f"expected without truth {self.expected_dice:.3f}")
        if self.kept:
            parts.append(f"{len(self.kept)} labels kept from the round before")
        if self.uncertainty is not None:
            parts.append(f"uncertainty {self.uncertainty:.4f} nats, {len(self.refined)} volumes refined")
        if self.trained:
            scored = "no validation" if self.validation_dice is None else f"validation Dice {self.validation_dice:.4f}"
            parts.append(f"{scored} at iteration {self.best_iteration}")
        if self.decision_bias is not None:
            parts.append(
                f"decision shifted by {describe_bias(self.decision_bias)} ({self.decision_gain:+.4f} left out)"
            )
        if self.correction_gain is not None:
            error = "" if self.correction_error is None else f" ± {self.correction_error:.4f}"
            parts.append(f"corrected by the cohort {self.correction_gain:+.4f}{error}")
        return f"round {self.round}: {', '.join(parts)}, {self.seconds:.0f} s"


def describe_bias(bias: Sequence[float]) -> str:
    """Return the biases of the foreground classes as text."""
    return f"{' '.join(f'{value:+.2f}' for value in bias[1:])} nats"


@dataclass(frozen=True)
class RoundLabels:
    """The open label file of a round."""

    path: Path
    names: frozenset[str]  # the volumes that it holds labels of
    _file: h5py.File

    def label(self, name: str) -> np.ndarray:
        """Return the label map (W, H, D) uint8 of a volume; raises InputError if the file is damaged or lacks it."""
        return read_array(self._file, name, self.path)

    def uncertainty(self, name: str) -> float | None:
        """Return the mean entropy of a volume in nats, None for labeled volumes and in round 0."""
        return self._file[name].attrs.get("uncertainty")

    def dice(self, name: str) -> float | None:
        """Return the mean foreground Dice of a volume's label, None where the true label is not known."""
        return self._file[name].attrs.get("dice")

    def refined(self, name: str) -> bool:
        return bool(self._file[name].attrs.get("refined", False))

    def expected(self, name: str) -> tuple[float, ...] | None:
        """Return the Dice of every foreground class that is expected of a volume's label; None if it is not known."""
        values = self._file[name].attrs.get("expected_dice")
        return None if values is None else tuple(np.asarray(values, float).tolist())

    def record(self) -> RoundRecord:
        """Return the figures of the round; in ``open_round``, a file without them raises InputError."""
        return RoundRecord.from_json(json.loads(self._file.attrs["record"]))


@contextlib.contextmanager
def open_round(path: Path) -> Iterator[RoundLabels]:
    """Open the labels of a round, its confidences, or the predictions of a test; InputError as of ``open_hdf5``."""
    with open_hdf5(path) as file:
        yield RoundLabels(path, frozenset(file), file)


def load_labels(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read the labels (W, H, D) uint8 of the named volumes after a round; raises InputError as ``open_round`` does."""
    with open_round(path) as labels:
        return {name: labels.label(name) for name in names}


def load_round(folder: RunFolder, round_: int, names: Sequence[str]) -> PseudoLabels:
    """Read labels, confidence and expected Dice of the named volumes; raises InputError as ``open_round`` does."""
    path = folder.confidence(round_)
    confidence = load_labels(path, names) if path.is_file() else {}
    with open_round(folder.pseudo_labels(round_)) as labels:
        known = {name: values for name in names if (values := labels.expected(name)) is not None}
        return PseudoLabels({name: labels.label(name) for name in names}, confidence=confidence, expected=known)


def load_weights(folder: RunFolder, round_: int, num_classes: int, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the voxel weights (W, H, D) uint8 of the named volumes' labels; raises InputError as ``open_round``."""
    with open_round(folder.confidence(round_)) as confidence, open_round(folder.pseudo_labels(round_)) as labels:
        return {name: class_balanced(confidence.label(name), labels.label(name), num_classes) for name in names}


def read_records(folder: RunFolder, *, skip_damaged: bool = True) -> list[RoundRecord]:
    """Return the records of the finished rounds in order; a damaged file counts as no finished round.

    Raises:
        InputError: if a file is damaged, unless ``skip_damaged``.
    """
    records = []
    for round_ in folder.labeled_rounds():
        try:
            with open_round(folder.pseudo_labels(round_)) as labels:
                records.append(labels.record())
        except InputError as error:
            if not skip_damaged:
                resumed = "train on with --resume, which writes the round again, or move the file away"
                raise InputError(f"{error.args[0].removesuffix('; write it again')}; {resumed}") from None
    return records


def known_records(folder: RunFolder) -> list[RoundRecord]:
    """Return the records of the finished rounds, of a run that is passed on without labels from its table of rounds.

    Raises:
        InputError: if that table is damaged.
    """
    if folder.labeled_rounds() or not folder.tracking.is_file():
        return read_records(folder)
    try:
        records = [RoundRecord.from_json(row) for row in json.loads(folder.tracking.read_text(encoding="utf-8"))]
        figures = [(record.round, record.best_iteration or 0, record.validation_dice or 0) for record in records]
        if not all(isinstance(figure, (int, float)) for row in figures for figure in row):
            raise ValueError("a figure is no number")
        return records
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{folder.tracking} cannot be read ({error}); get it again, or delete it") from None


def write_round(folder: RunFolder, pseudo: PseudoLabels, record: RoundRecord) -> None:
    """Write the confidences, then the labels of a round, which finish it, then the table of all rounds.

    Each file is complete or not there; raises WriteError if one cannot be written.
    """
    if pseudo.confidence:
        with write_hdf5(folder.confidence(record.round)) as file:
            for name, values in pseudo.confidence.items():
                file.create_dataset(name, data=values, **STORED)
    with write_hdf5(folder.pseudo_labels(record.round)) as file:
        file.attrs["record"] = json.dumps(record.to_json())
        for name, label in pseudo.labels.items():
            dataset = file.create_dataset(name, data=label, **STORED)
            dataset.attrs["refined"] = name in pseudo.refined
            measured = {"uncertainty": pseudo.uncertainty, "dice": pseudo.dice, "expected_dice": pseudo.expected}
            for key, values in measured.items():
                if name in values:
                    dataset.attrs[key] = values[name]
    write_tracking(folder)


def write_tracking(folder: RunFolder) -> None:
    """Write the table of all finished rounds; raises WriteError if it cannot be written."""
    write_json(folder.tracking, [record.to_json() for record in read_records(folder)])
