"""What a run has left in its folder, read for the report and for advice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from semisam_o1.core.errors import InputError
from semisam_o1.core.progress import progress
from semisam_o1.data.dataset.volumes import Dataset, Volume
from semisam_o1.evaluation.metrics import dice_per_class, segmentation_metrics
from semisam_o1.runs import layout
from semisam_o1.runs.find import find_trained, read_arguments
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import read_records


@dataclass
class Case:
    """One scan that the run labeled.

    Attributes:
        group: 'cohort' (an unlabeled training scan) or 'test'.
        dice: per foreground class, None where the true label is not known; ``first_dice`` those of round 0.
        hd95: mean over the classes, in mm where the spacing is known, else in voxels.
        milliliters: per foreground class, None where the spacing is not known.
        uncertainty: mean entropy in nats.
    """

    name: str
    group: str
    dice: list[float] | None = None
    first_dice: list[float] | None = None
    hd95: float | None = None
    voxels: list[int] = field(default_factory=list)
    milliliters: list[float] | None = None
    uncertainty: float | None = None
    refined: bool = False

    @property
    def mean_dice(self) -> float | None:
        return None if self.dice is None else float(np.mean(self.dice))


@dataclass
class RunResults:
    """A run folder's content.

    Attributes:
        content: of args.json.
        records: of every finished round, from 0.
        steps: the lines of metrics.jsonl.
        test: of test_metrics.json, empty before testing.
    """

    folder: RunFolder
    content: dict[str, Any]
    records: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    test: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        return self.content["arguments"]

    @property
    def num_classes(self) -> int:
        return self.arguments["num_classes"]

    @property
    def dataset(self) -> Dataset:
        return self._dataset(self.arguments["root_path"])

    def class_name(self, c: int) -> str:
        names = (self.content.get("preparation") or {}).get("class_names", {})
        return names.get(str(c), "foreground" if self.num_classes == 2 else f"class {c}")

    def cohort(self) -> Iterator[tuple[Case, Volume, dict[str, np.ndarray]]]:
        """Yield every unlabeled scan with its labels by kind: 'truth' where known, 'first', 'prediction'."""
        if not self.records:
            return
        names = self.dataset.names("train.txt")[self.arguments["labeled_num"] :]
        last = len(self.records) - 1
        diagnosis = self.arguments.get("labels_for_diagnosis", True)
        with h5py.File(self.folder.pseudo_labels(0)) as first, h5py.File(self.folder.pseudo_labels(last)) as final:
            for name in progress(names, "cohort"):
                if name not in final:
                    raise InputError(
                        f"{self.folder.pseudo_labels(last)} holds no label of {name}; "
                        f"{self.dataset.root / 'train.txt'} changed since the run"
                    )
                volume = self.dataset.load(name)
                labels = {"first": first[name][()], "prediction": final[name][()]} if last else {
                    "first": first[name][()]
                }  # fmt: skip
                case = Case(
                    name, "cohort", uncertainty=_number(final[name].attrs.get("uncertainty")),
                    refined=bool(final[name].attrs.get("refined", False)),
                )  # fmt: skip
                yield self._measured(case, volume, labels, volume.label if diagnosis else None)

    def tested(self) -> Iterator[tuple[Case, Volume, dict[str, np.ndarray]]]:
        """Yield every test scan with its labels by kind: 'truth', 'prediction'; none before testing."""
        if not (self.test and self.folder.test_predictions.is_file()):
            return
        dataset = self._dataset(self.test["root_path"])
        with h5py.File(self.folder.test_predictions) as file:
            for name in progress(list(file), "test scans"):
                volume = dataset.load(name)
                yield self._measured(Case(name, "test"), volume, {"prediction": file[name][()]}, volume.label)

    def _measured(
        self, case: Case, volume: Volume, labels: dict[str, np.ndarray], truth: np.ndarray | None
    ) -> tuple[Case, Volume, dict[str, np.ndarray]]:
        if any(label.shape != volume.image.shape for label in labels.values()):
            raise InputError(f"{self.dataset.path(case.name)} has another size than when the run labeled it")
        final = labels.get("prediction", labels.get("first"))
        case.voxels = np.bincount(final.ravel(), minlength=self.num_classes)[1:].tolist()
        spacing = volume.geometry.spacing if volume.geometry.known else (1.0, 1.0, 1.0)
        if volume.geometry.known:
            case.milliliters = [count * float(np.prod(spacing)) / 1000 for count in case.voxels]
        if truth is not None:
            classes = range(1, self.num_classes)
            case.dice = dice_per_class(final, truth, self.num_classes)
            case.hd95 = float(np.mean([segmentation_metrics(final == c, truth == c, spacing)["hd95"] for c in classes]))
            if "first" in labels:
                case.first_dice = dice_per_class(labels["first"], truth, self.num_classes)
            labels = {"truth": truth, **labels}
        return case, volume, labels

    def _dataset(self, root: str) -> Dataset:
        return Dataset(Path(root), self.arguments["image_key"], self.arguments["binary_label"])


def read_run(run: str | Path, backbone: str | None = None) -> RunResults:
    """Read a run by its folder, or by the name that its experiment was given.

    Raises:
        InputError: if there is no such run, or nothing has been finished in it.
    """
    path = find_run_folder(run, backbone)
    folder = RunFolder(path, path.name)
    content = read_arguments(folder.args)
    if "arguments" not in content:
        raise InputError(f"{path} is no folder of a training run: it holds no args.json")
    records = [record.to_json() for record in read_records(folder)]
    if not records:
        raise InputError(f"{path}: round 0 is not finished, so there is nothing to show yet")
    test = folder.path / "test_metrics.json"
    try:
        tested = json.loads(test.read_text(encoding="utf-8")) if test.is_file() else {}
    except ValueError:
        raise InputError(f"{test} cannot be read; run test_baseline.py again") from None
    return RunResults(folder, content, records, _read_steps(folder.metrics), tested)


def find_run_folder(run: str | Path, backbone: str | None = None) -> Path:
    """Return the folder with args.json that a path or an experiment's name stands for."""
    for path in (Path(run).expanduser().resolve(), layout.MODEL_ROOT / run):
        inside = [path, *sorted(path.glob("*"))] if path.is_dir() else []
        found = [folder for folder in inside if (folder / "args.json").is_file()]
        if len(found) > 1:
            raise InputError(f"{path} holds several runs; name one of {', '.join(map(str, found))}")
        if found:
            return found[0]
    return find_trained(str(run), backbone=backbone).folder


def _read_steps(path: Path) -> list[dict[str, Any]]:
    steps = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                steps.append(json.loads(line))
            except ValueError:  # the line that a kill cut off
                continue
    return steps


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
