"""Test a trained model: predict every volume of a list, compare, write tables and predictions."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from semisam_o1.commands.export import check_outputs, to_original_grid, write_image
from semisam_o1.commands.trained import LoadedModel, TrainedConfig, load_model
from semisam_o1.core import distributed
from semisam_o1.core.atomic_io import write_json
from semisam_o1.core.device import resolve_device
from semisam_o1.core.errors import InputError
from semisam_o1.core.flags import assign, option
from semisam_o1.core.progress import progress
from semisam_o1.data.dataset.volumes import Dataset, Volume
from semisam_o1.data.preflight.check import check_testing
from semisam_o1.evaluation.tables import CaseMetrics, as_json, case_metrics, summarize, table, write_csv
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import write_test_predictions


@dataclass(frozen=True, kw_only=True)
class TestConfig(TrainedConfig):
    """Flags of ``test_baseline.py``."""

    __test__ = False  # pytest would collect a class of this name

    root_path: Path = option(None, "the dataset folder", required=True)
    exp: str = option(None, "a folder below model/, or the experiment name that training was given", required=True)
    test_list: str = option("test.txt", "list of the volumes to test, in the dataset folder")
    truth: Path | None = option(
        None,
        "dataset folder with the same scans on their original grid: predictions are resampled to it and compared with "
        "its labels",
        metavar="DIR",
    )
    save_pred: Path | None = option(None, "folder for predictions, images and labels as NIfTI", metavar="DIR")
    overwrite: bool = option(False, "replace files in the folder of --save_pred")

    def __post_init__(self) -> None:
        assign(self, root_path=Path(self.root_path).expanduser().resolve(), exp=str(Path(self.exp)))
        super().__post_init__()

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.root_path, self.image_key or "image", bool(self.binary_label))


def test(config: TestConfig) -> dict[str, Any]:
    """Test one checkpoint and return the summary that was printed and written.

    Raises:
        InputError: if the checkpoint or the data cannot be used.
    """
    model = load_model(config, distributed.start(resolve_device(config.device)))
    config, dataset = model.config, model.config.dataset
    if config.save_pred is not None:
        paths = [p for name in dataset.names(config.test_list) for p in _image_paths(config.save_pred, name)]
        check_outputs(paths, "--save_pred", config.overwrite)
    names = check_testing(dataset, config.test_list, config.num_classes)
    truth = None if config.truth is None else _truth_dataset(config, names)
    if distributed.is_main():
        where = f"{len(names)} volumes of {dataset.root / config.test_list}"
        print(f"testing {model.trained.checkpoint} on {where}: {model}")
    threads = distributed.from_main(distributed.cpu_threads() if model.predictor.device.type == "cuda" else 0)
    results = progress(VolumeTester(model, truth, threads)(names), "testing", len(names))
    if distributed.is_main():
        return _write_results(model, truth, results)
    return summarize([case for result in results for case in result.cases])


@dataclass(frozen=True)
class TestResult:
    """Prediction and metrics of one volume.

    Attributes:
        prediction: label map on the grid of the network's input.
        evaluated: label map on the grid of the ground truth.
        cases: metrics per foreground class.
    """

    __test__ = False

    name: str
    prediction: np.ndarray
    evaluated: np.ndarray
    cases: list[CaseMetrics]


class VolumeTester:
    """Predicts and evaluates volumes, distributed over the ranks.

    Args:
        truth: dataset of the ground truth on the original grids; None for the labels of the tested dataset.
        threads: number of threads per rank. With a GPU, several let the metrics of some volumes be computed while the
            next ones are predicted; on a CPU (0), prediction keeps all cores busy.
    """

    def __init__(self, model: LoadedModel[TestConfig], truth: Dataset | None, threads: int):
        self.model, self.truth, self.threads = model, truth, threads
        self._predicting = Lock()

    def __call__(self, names: Sequence[str]) -> Iterator[TestResult]:
        """Yield the results in order, on every rank."""
        chunk = distributed.world_size() * max(1, 4 * self.threads)
        for first in range(0, len(names), chunk):
            yield from distributed.share_out(self.test_volume, names[first : first + chunk], threads=self.threads)

    def test_volume(self, name: str) -> TestResult:
        volume = self.model.config.dataset.load(name)
        with self._predicting:
            probabilities = self.model.probabilities(volume.image)
        prediction = evaluated = self.model.label_map(probabilities)
        if self.truth is not None:
            evaluated = self.model.label_map(to_original_grid(probabilities, volume))
            volume = _truth_volume(self.truth, name, evaluated.shape)
        return TestResult(name, prediction, evaluated, case_metrics(volume, evaluated, self.model.config.num_classes))


def _truth_dataset(config: TestConfig, names: Sequence[str]) -> Dataset:
    """Return the dataset of ``--truth``; raises InputError if it does not list the scans to be tested."""
    truth = dataclasses.replace(config.dataset, root=config.truth.expanduser().resolve())
    if sorted(check_testing(truth, config.test_list, config.num_classes)) != sorted(names):
        raise InputError(
            f"{truth.root / config.test_list} and {config.dataset.root / config.test_list} name different scans; "
            "--truth takes the same scans, prepared on their original grid"
        )
    return truth


def _truth_volume(truth: Dataset, name: str, shape: tuple[int, ...]) -> Volume:
    volume = truth.load(name)
    if volume.label.shape != shape:
        raise InputError(
            f"{truth.path(name)} has {volume.label.shape} voxels, the scan that {name} was prepared from {shape}; "
            "prepare --truth without --spacing, --crop and --orientation"
        )
    return volume


def _write_results(
    model: LoadedModel[TestConfig], truth: Dataset | None, results: Iterator[TestResult]
) -> dict[str, Any]:
    """Write predictions and metrics as they come in, print the table, and return the summary."""
    config, folder = model.config, RunFolder(model.trained.folder, model.config.model)
    cases: list[CaseMetrics] = []
    with write_test_predictions(folder.test_predictions) as add:  # for the report
        for result in results:
            add(result.name, result.prediction)
            cases += result.cases
            if config.save_pred is not None:
                volume = (truth or config.dataset).load(result.name)
                arrays = (result.evaluated, volume.image, volume.label)
                for path, array in zip(_image_paths(config.save_pred, result.name), arrays, strict=True):
                    write_image(path, array, volume.geometry)
        summary = summarize(cases)
        print(table(summary))
        content = as_json(cases, summary, _test_settings(model, truth))
        _keep_earlier_results(folder, content)
    write_csv(folder.test_table, cases)
    write_json(folder.test_metrics, content)
    print(f"written: {folder.test_table} and {folder.test_metrics.name}")
    if config.save_pred is not None:
        print(f"predictions, images and labels: {config.save_pred}")
    return summary


def _test_settings(model: LoadedModel[TestConfig], truth: Dataset | None) -> dict[str, Any]:
    config = model.config
    return {
        "checkpoint": str(model.trained.checkpoint),
        "root_path": str(config.root_path),
        "test_list": config.test_list,
        "patch_size": list(config.patch_size),
        "stride": [config.stride_xy, config.stride_xy, config.stride_z],
        "truth": None if truth is None else str(truth.root),
        "largest_component": config.largest_component,
        "precision": model.predictor.precision,
        "device": model.predictor.device.type,
    }


def _image_paths(folder: Path, name: str) -> list[Path]:
    """Return the files of one volume with ``--save_pred``: prediction, image and label."""
    return [folder / f"{name}_{kind}.nii.gz" for kind in ("pred", "img", "lab")]


def _keep_earlier_results(folder: RunFolder, content: dict[str, Any]) -> None:
    """Rename the files of an earlier test with other results: test_metrics_1.json and so on."""
    if not folder.test_metrics.is_file():
        return
    with contextlib.suppress(ValueError):  # a damaged file is renamed, too
        if json.loads(folder.test_metrics.read_text(encoding="utf-8")) == json.loads(json.dumps(content)):
            return

    def numbered(path: Path, number: int) -> Path:
        return path.with_name(f"{path.stem}_{number}{path.suffix}")

    free = next(number for number in itertools.count(1) if not numbered(folder.test_metrics, number).exists())
    for path in (folder.test_metrics, folder.test_table, folder.test_predictions):
        if path.exists():
            path.replace(numbered(path, free))
    print(f"the earlier test has other results, kept as {numbered(folder.test_metrics, free)}")
