"""Test a trained model: predict every volume of a list, compare, write tables and predictions."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch

from semisam_o1.commands.config import TestConfig
from semisam_o1.commands.export import write_image
from semisam_o1.commands.prediction import on_original_grid
from semisam_o1.core import distributed
from semisam_o1.core.atomic_io import replacing, write_json
from semisam_o1.core.device import resolve_device, resolve_precision
from semisam_o1.core.errors import InputError
from semisam_o1.core.memory import configure_allocator
from semisam_o1.core.progress import progress
from semisam_o1.data.dataset.volumes import Dataset, Volume
from semisam_o1.data.preflight.check import check_testing
from semisam_o1.evaluation.predictor import Predictor
from semisam_o1.evaluation.tables import CaseMetrics, as_json, case_metrics, summarize, table, write_csv
from semisam_o1.networks import build_network
from semisam_o1.refinement.components import largest_components
from semisam_o1.runs.find import find_trained
from semisam_o1.runs.layout import RunFolder
from semisam_o1.training.checkpoint import load_weights


def test(config: TestConfig) -> dict:
    """Test one checkpoint and return the summary that was printed and written.

    Raises:
        InputError: if the checkpoint or the data cannot be used.
    """
    trained = find_trained(config.exp, config.model, config.ckpt, config.backbone, config.labeled_num)
    config = config.resolve({**trained.arguments, "model": trained.model})
    dataset = config.dataset
    device = distributed.start(resolve_device(config.device))
    configure_allocator(device.type)
    precision = resolve_precision(config.precision, device.type)
    if config.save_pred is not None and config.save_pred.exists() and not config.save_pred.is_dir():
        raise InputError(f"--save_pred {config.save_pred} is a file; name a folder")
    network = build_network(config.model, config.num_classes)
    load_weights(network, trained.checkpoint)
    if config.save_pred is not None and not config.overwrite:
        _refuse_existing(dataset.names(config.test_list), config.save_pred)
    names = check_testing(dataset, config.test_list, config.num_classes)
    truth = None if config.truth is None else _same_scans(config, names)
    _say(
        f"testing {trained.checkpoint} on {len(names)} volumes of {dataset.root / config.test_list}: "
        f"{config.num_classes} classes, patch {config.patch_size}, stride {config.stride_xy} {config.stride_z}, "
        f"{precision} on {device.type}"
    )
    predictor = Predictor(
        network.to(device),
        config.patch_size,
        (config.stride_xy, config.stride_xy, config.stride_z),
        precision,
    )
    cases: list[CaseMetrics] = []
    kept = RunFolder(trained.folder, config.model).test_predictions
    metrics = trained.folder / "test_metrics.json"
    context = {
        "checkpoint": str(trained.checkpoint), "root_path": str(dataset.root), "test_list": config.test_list,
        "patch_size": list(config.patch_size), "stride": [config.stride_xy, config.stride_xy, config.stride_z],
        "truth": None if truth is None else str(truth.root), "largest_component": config.largest_component,
        "precision": precision, "device": device.type,
    }  # fmt: skip
    threads = distributed.from_main(distributed.cpu_threads() if device.type == "cuda" else 0)
    tested = progress(VolumeTester(config, dataset, truth, predictor, threads)(names), "testing", len(names))
    if not distributed.is_main():
        return summarize([case for volume in tested for case in volume.cases])
    with replacing(kept) as partial:
        with h5py.File(partial, "w") as file:  # for the report
            for volume in tested:
                file.create_dataset(volume.name, data=volume.prediction, compression="gzip", compression_opts=1)
                cases += volume.cases
                if config.save_pred is not None:
                    save_prediction(config.save_pred, (truth or dataset).load(volume.name), volume.compared)
        summary = summarize(cases)
        print(table(summary))
        content = as_json(cases, summary, context)
        _keep_earlier(metrics, content, [metrics, metrics.with_suffix(".csv"), kept])
    write_csv(metrics.with_suffix(".csv"), cases)
    write_json(metrics, content)
    print(f"written: {metrics.with_suffix('.csv')} and {metrics.name}")
    if config.save_pred is not None:
        print(f"predictions, images and labels: {config.save_pred}")
    return summary


class Tested(NamedTuple):
    """One volume: its label map on the grid that the network saw, on the grid of the truth, and how it compares."""

    name: str
    prediction: np.ndarray
    compared: np.ndarray
    cases: list[CaseMetrics]


class VolumeTester:
    """Predicts volumes and compares them, shared out over the ranks.

    With threads, surfaces of some volumes are measured while the next ones are predicted: for a GPU. On a CPU,
    prediction itself keeps the cores busy.
    """

    def __init__(self, config: TestConfig, dataset: Dataset, truth: Dataset | None, predictor: Predictor, threads: int):
        self.config, self.dataset, self.truth, self.predictor = config, dataset, truth, predictor
        self.threads = threads
        self._predicting = Lock()

    def __call__(self, names: Sequence[str]) -> Iterator[Tested]:
        """Yield the volumes in order, on every rank."""
        some = distributed.world_size() * max(1, 4 * self.threads)
        for first in range(0, len(names), some):
            yield from distributed.share_out(self.volume, names[first : first + some], threads=self.threads)

    def volume(self, name: str) -> Tested:
        config, volume = self.config, self.dataset.load(name)
        with self._predicting:
            probabilities = self.predictor(torch.from_numpy(volume.image)).cpu().numpy()
        prediction = compared = _label(probabilities, config)
        if self.truth is not None:
            compared = _label(on_original_grid(probabilities, volume), config)
            volume = _on_that_grid(self.truth.load(name), compared, self.truth)
        return Tested(name, prediction, compared, case_metrics(volume, compared, config.num_classes))


def _say(text: str) -> None:
    if distributed.is_main():
        print(text)


def _label(probabilities: np.ndarray, config: TestConfig) -> np.ndarray:
    """Return the label map uint8 (W, H, D) of class probabilities (C, W, H, D)."""
    label = probabilities.argmax(axis=0).astype(np.uint8)
    return largest_components(label, config.num_classes) if config.largest_component else label


def _same_scans(config: TestConfig, names: Sequence[str]) -> Dataset:
    """Return the dataset that --truth names, checked to hold the labels of the scans to be tested."""
    truth = dataclasses.replace(config.dataset, root=config.truth.expanduser().resolve())
    there = check_testing(truth, config.test_list, config.num_classes)
    if sorted(there) != sorted(names):
        raise InputError(
            f"{truth.root / config.test_list} and {config.dataset.root / config.test_list} name different scans; "
            "--truth takes the same scans, prepared on their original grid"
        )
    return truth


def _on_that_grid(volume: Volume, prediction: np.ndarray, truth: Dataset) -> Volume:
    if volume.label.shape != prediction.shape:
        raise InputError(
            f"{truth.path(volume.name)} has {volume.label.shape} voxels, the scan that {volume.name} was prepared from "
            f"{prediction.shape}; prepare --truth without --spacing, --crop and --orientation"
        )
    return volume


def save_prediction(folder: Path, volume: Volume, prediction: np.ndarray) -> None:
    """Write prediction, image and label as NIfTI with the geometry that the volume knows."""
    for suffix, array in (("pred", prediction), ("img", volume.image), ("lab", volume.label)):
        write_image(_prediction_path(folder, volume.name, suffix), array, volume.geometry)


def _prediction_path(folder: Path, name: str, suffix: str) -> Path:
    return folder / f"{name}_{suffix}.nii.gz"


def _refuse_existing(names: Sequence[str], folder: Path) -> None:
    for name in names:
        for suffix in ("pred", "img", "lab"):
            path = _prediction_path(folder, name, suffix)
            if path.exists():
                raise InputError(f"--save_pred: {path} exists already; name another folder, or --overwrite")


def _keep_earlier(metrics: Path, content: dict[str, Any], files: Sequence[Path]) -> None:
    """Set the results of another test of the same run aside, under the first free number."""
    try:
        if json.loads(metrics.read_text(encoding="utf-8")) == json.loads(json.dumps(content)):
            return
    except FileNotFoundError:
        return
    except ValueError:  # damaged, but somebody's
        pass
    number = next(n for n in itertools.count(1) if not _numbered(metrics, n).exists())
    for path in files:
        if path.exists():
            path.replace(_numbered(path, number))
    print(f"the results of the test before differ and are kept as {_numbered(metrics, number)}")


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}_{number}{path.suffix}")
