"""The results of a run, read back from its folder for the report and for suggestions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semisam_o1.core.atomic_io import read_json
from semisam_o1.core.errors import InputError
from semisam_o1.core.terminal import progress
from semisam_o1.data.dataset.hdf5 import write_hdf5
from semisam_o1.data.dataset.volumes import Dataset, Volume
from semisam_o1.data.preparation.settings import Classes
from semisam_o1.evaluation.metrics import dice_per_class, segmentation_metrics
from semisam_o1.runs.find import find_run_folder, read_sound_arguments
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import STORED, RoundRecord, known_records, open_round, read_records

# Arguments without which nothing can be said about a run.
REQUIRED = ("root_path", "image_key", "binary_label", "labeled_num", "num_classes")


@dataclass(frozen=True)
class Case:
    """Measurements of one scan and of its label: one that the run gave it, or the user's own."""

    name: str
    label_file: Path  # holds the label
    voxels: list[int] | None  # per foreground class, None where the scan has no label
    milliliters: list[float] | None = None  # per foreground class, None where the spacing is not known
    dice: list[float] | None = None  # per foreground class, None where the true label is not known
    round0_dice: list[float] | None = None  # the same for the label of round 0; None for test scans
    hd95: float | None = None  # mean over the foreground classes, in mm where the spacing is known, else in voxels
    uncertainty: float | None = None  # mean entropy in nats
    refined: bool = False  # whether the label was corrected by neighbors
    expected: tuple[float, ...] | None = None  # Dice per foreground class, estimated without a true label

    @property
    def mean_dice(self) -> float | None:
        return None if self.dice is None else float(np.mean(self.dice))


class LabeledScan(NamedTuple):
    """A scan with its label maps (W, H, D) by kind: 'truth' where known, 'first' of round 0, 'prediction'.

    A scan of the user's has 'truth' alone.
    """

    case: Case
    volume: Volume
    labels: dict[str, np.ndarray]


@dataclass(frozen=True)
class RunResults:
    """Content of a run folder."""

    folder: RunFolder
    content: dict[str, Any]  # of args.json
    records: list[RoundRecord]  # of the finished rounds, from 0
    steps: list[dict[str, Any]]  # of metrics.jsonl
    test: dict[str, Any]  # content of test_metrics.json, empty before testing

    @property
    def arguments(self) -> dict[str, Any]:
        return self.content["arguments"]

    @property
    def num_classes(self) -> int:
        return self.arguments["num_classes"]

    @property
    def validated(self) -> int:
        """Number of validation labels that the networks were selected by."""
        return len(self.content.get("data", {}).get("val.txt", ()))

    @property
    def dataset(self) -> Dataset:
        return self._dataset(self.arguments["root_path"])

    @property
    def unlabeled(self) -> list[str]:
        """Names of the unlabeled training scans."""
        return self.dataset.names("train.txt")[self.arguments["labeled_num"] :]

    @property
    def labeled(self) -> list[str]:
        """Names of the training scans whose labels are the user's own: the templates."""
        return self.dataset.names("train.txt")[: self.arguments["labeled_num"]]

    @property
    def validation(self) -> list[str]:
        """Names of the validation scans."""
        return self.dataset.names("val.txt", optional=True)

    @property
    def stated_names(self) -> dict[int, str]:
        """Names of the foreground classes, of those that the dataset states a name of."""
        return stated_names(self.content.get("preparation"), self.arguments)

    @property
    def class_names(self) -> dict[int, str]:
        """Names of all foreground classes."""
        unnamed = "foreground" if self.num_classes == 2 else "class {}"
        return {c: unnamed.format(c) for c in range(1, self.num_classes)} | self.stated_names

    def class_name(self, c: int) -> str:
        return self.class_names[c]

    def cohort(self) -> Iterator[LabeledScan]:
        """Yield every unlabeled training scan; raises InputError if scans and labels do not belong together."""
        dataset, diagnosis = self.dataset, self.arguments.get("labels_for_diagnosis", True)
        kinds = {"first": 0, "prediction": self.records[-1].round} if len(self.records) > 1 else {"first": 0}
        with contextlib.ExitStack() as stack:
            rounds = {k: stack.enter_context(open_round(self.folder.pseudo_labels(r))) for k, r in kinds.items()}
            last = list(rounds.values())[-1]
            for name in progress(self.unlabeled, "cohort"):
                if name not in last.names:
                    train_list = dataset.root / "train.txt"
                    raise InputError(f"{last.path} holds no label of {name}; {train_list} changed since the run")
                volume = dataset.load(name)
                labels = {kind: labels.label(name) for kind, labels in rounds.items()}
                truth = volume.label if diagnosis else None
                measured = {"uncertainty": last.uncertainty(name), "refined": last.refined(name)}
                measured["expected"] = last.expected(name)
                yield self._scan(volume, truth, labels, label_file=last.path, **measured)

    def own(self, names: Sequence[str]) -> Iterator[LabeledScan]:
        """Yield scans with the user's own labels; raises DatasetError if a scan cannot be read."""
        for name in progress(names, "own labels"):
            volume, path = self.dataset.load(name), self.dataset.path(name)
            if volume.label is None:
                yield LabeledScan(Case(name, path, None), volume, {})
            else:
                yield self._scan(volume, None, {"truth": volume.label}, label_file=path)

    def tested(self) -> Iterator[LabeledScan]:
        """Yield every test scan; none before testing. Raises InputError as ``cohort`` does."""
        if not (self.test and self.folder.test_predictions.is_file()):
            return
        dataset = self._dataset(self.test["root_path"])
        with open_round(self.folder.test_predictions) as predictions:
            for name in progress(sorted(predictions.names), "test scans"):
                volume = dataset.load(name)
                labels = {"prediction": predictions.label(name)}
                yield self._scan(volume, volume.label, labels, label_file=predictions.path)

    def _scan(
        self, volume: Volume, truth: np.ndarray | None, labels: dict[str, np.ndarray], **measured: Any
    ) -> LabeledScan:
        if any(label.shape != volume.image.shape for label in labels.values()):
            raise InputError(f"{self.dataset.path(volume.name)} has another size than when the run labeled it")
        final = list(labels.values())[-1]
        voxels = [int(np.count_nonzero(final == c)) for c in range(1, self.num_classes)]
        spacing = volume.geometry.spacing if volume.geometry.known else (1.0, 1.0, 1.0)
        if volume.geometry.known:
            measured["milliliters"] = [count * float(np.prod(spacing)) / 1000 for count in voxels]
        if truth is not None:
            measured |= compared(final, truth, labels.get("first"), self.num_classes, spacing)
            labels = {"truth": truth, **labels}
        return LabeledScan(Case(volume.name, voxels=voxels, **measured), volume, labels)

    def _dataset(self, root: str) -> Dataset:
        return Dataset(Path(root), self.arguments["image_key"], self.arguments["binary_label"])


def compared(
    final: np.ndarray, truth: np.ndarray, first: np.ndarray | None, num_classes: int, spacing: Sequence[float]
) -> dict[str, Any]:
    """Return the Dice and the mean distance of a label and the true one, and the Dice of an earlier label if given."""
    given = [label for label in (final, truth, first) if label is not None]
    box = _foreground_box(given)
    final, truth, *first = (label[box] for label in given)
    masks = [(final == c, truth == c) for c in range(1, num_classes)]
    measured = {
        "hd95": float(np.mean([segmentation_metrics(*pair, spacing)["hd95"] for pair in masks])),
        "dice": dice_per_class(final, truth, num_classes),
    }
    return measured | ({"round0_dice": dice_per_class(first[0], truth, num_classes)} if first else {})


def _foreground_box(labels: Sequence[np.ndarray]) -> tuple[slice, ...]:
    """Return the part of label maps with all foreground and a voxel around it, where there is one: it is compared."""
    box = []
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        filled = np.flatnonzero(np.any([label.any(axis=others) for label in labels], axis=0))
        box.append(slice(max(filled[0] - 1, 0), filled[-1] + 2) if len(filled) else slice(0, 1))
    return tuple(box)


def stated_names(preparation: Mapping[str, Any] | None, arguments: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of the foreground classes that a run's preparation states; none where all were merged.

    Args:
        preparation: the entry of args.json.
        arguments: of the training.
    """
    names = {} if arguments.get("binary_label") else Classes.from_json(preparation or {}).names
    return {c: name for c, name in sorted(names.items()) if 0 < c < arguments.get("num_classes", 0)}


def read_run(run: str | Path, backbone: str | None = None, root_path: Path | None = None) -> RunResults:
    """Read a run by its folder, or by the name of its experiment.

    Args:
        root_path: where its dataset lies now, if it was moved.

    Raises:
        InputError: if there is no such run, no round of it is finished, or a file of it is damaged.
    """
    path = find_run_folder(run, backbone)
    content = read_sound_arguments(path / "args.json")
    if not content:
        raise InputError(f"{path} is no folder of a training run: it holds no args.json")
    arguments = content["arguments"]
    if missing := [name for name in REQUIRED if name not in arguments]:
        raise InputError(f"{path / 'args.json'} lacks {', '.join(missing)}; restore the file")
    if root_path is not None:
        content = content | {"arguments": arguments | {"root_path": str(root_path.expanduser().resolve())}}
    folder = RunFolder(path, arguments.get("model", path.name))
    records = read_records(folder, skip_damaged=False)
    if not records and known_records(folder):
        raise InputError(f"{path} holds a network without the labels of its run; name your own run")
    if not records or records[0].round:
        raise InputError(f"{path}: round 0 is not finished, so there is nothing to show yet")
    tested = read_json(folder.test_metrics, "run test_baseline.py again") or {}
    return RunResults(folder, content, records, read_steps(folder.metrics), tested)


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a metrics.jsonl; a line that was cut off by a kill is left out."""
    steps = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            steps.append(json.loads(line))
    return [step for step in steps if isinstance(step, dict) and "step" in step]


@contextlib.contextmanager
def write_test_predictions(path: Path) -> Iterator[Callable[[str, np.ndarray], object]]:
    """Yield a function that adds the label map (W, H, D) of a test volume; the file is written after the body."""
    with write_hdf5(path) as file:
        yield lambda name, label: file.create_dataset(name, data=label, **STORED)
