"""Test a trained model: predict every volume of a list, compare, write tables and predictions."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from semisam_o1.commands.export import to_original_grid, write_image
from semisam_o1.commands.incoming import NetworkInput, network_input
from semisam_o1.commands.outputs import check_folder, check_outputs, source_files
from semisam_o1.commands.trained import LoadedModel, TrainedConfig, load_model
from semisam_o1.core import distributed
from semisam_o1.core.atomic_io import read_json, replacing, write_json
from semisam_o1.core.device import resolve_device
from semisam_o1.core.errors import DatasetError, InputError, listed, raise_faults
from semisam_o1.core.flags import assign, option
from semisam_o1.core.terminal import progress
from semisam_o1.data.dataset.geometry import Grid
from semisam_o1.data.dataset.volumes import Dataset, Volume
from semisam_o1.data.preflight.check import check_testing
from semisam_o1.data.preparation.settings import spacing_mm
from semisam_o1.evaluation.metrics import IMPLEMENTATIONS
from semisam_o1.evaluation.tables import Row, case_metrics, summarize, table, write_csv
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.results import write_test_predictions


@dataclass(frozen=True, kw_only=True)
class TestConfig(TrainedConfig):
    """Flags of ``test_baseline.py``."""

    __test__ = False  # pytest would collect a class of this name

    root_path: Path = option(None, "the dataset folder", required=True)
    exp: str = option(None, "a folder below model/, or the experiment name that training was given", required=True)
    test_list: str = option("test.txt", "list of the volumes to test, in the dataset folder")
    source_spacing: tuple[float, float, float] | None = option(
        None, "spacing of volumes that do not state theirs", metavar="MM", type=spacing_mm
    )
    truth: Path | None = option(None, "tests this dataset instead of --root_path, which says the same", metavar="DIR")
    metrics: str = option(
        "builtin",
        "implementation of the metrics: medpy itself, or builtin, which is faster and agrees to 1e-9",
        choices=tuple(IMPLEMENTATIONS),
    )
    save_pred: Path | None = option(None, "folder for predictions, images and labels as NIfTI", metavar="DIR")
    overwrite: bool = option(False, "replace files in the folder of --save_pred")

    def __post_init__(self) -> None:
        assign(self, root_path=Path(self.truth or self.root_path).expanduser().resolve(), exp=str(Path(self.exp)))
        super().__post_init__()

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.root_path, self.image_key or "image", bool(self.binary_label))

    def saved(self, name: str) -> list[Path]:
        """Return the files of one volume with ``--save_pred``: prediction, image and label."""
        return [self.save_pred / f"{name}_{kind}.nii.gz" for kind in ("pred", "img", "lab")]


class VolumeResult(NamedTuple):
    """One volume: the predicted label map (W, H, D) on its own grid, and its metrics."""

    name: str
    prediction: np.ndarray
    rows: list[Row]


def test(config: TestConfig) -> dict[str, Any]:
    """Test one checkpoint and return the summary that was printed and written.

    Raises:
        InputError: if the checkpoint or the data cannot be used.
    """
    model = load_model(config, distributed.start(resolve_device(config.device)))
    config, dataset = model.config, model.config.dataset
    check_folder(model.trained.folder, "the run folder")
    if config.save_pred is not None:
        outputs = {name: config.saved(name) for name in dataset.names(config.test_list)}
        check_outputs(outputs, "--save_pred", source_files(dataset), config.overwrite)
    names = check_testing(dataset, config.test_list, config.num_classes)
    network = network_input(model).of_prepared()
    resampled = _resampled(network, config, names)
    if distributed.is_main():
        for warning in _used_in_training(dataset, names):
            print(warning)
        where = f"{len(names)} volumes of {dataset.root / config.test_list}"
        print(f"testing {model.trained.checkpoint} on {where}: {model}")
        if resampled:
            print(f"{listed(resampled)}: predicted on the grid of the network, compared on their own")
    threads = distributed.from_main(distributed.cpu_threads() if model.predictor.device.type == "cuda" else 0)
    results = progress(evaluate_volumes(model, network, names, threads), "testing", len(names))
    if distributed.is_main():
        return _write_results(model, results)
    return summarize([row for result in results for row in result.rows])


def _resampled(network: NetworkInput, config: TestConfig, names: Sequence[str]) -> list[str]:
    """Return the volumes whose grid is not the network's.

    Raises:
        DatasetError: naming the volumes that state no spacing and are unlike those of the training in size.
    """
    found, faults = [], []
    for name in names:
        grid = _spaced(config, config.dataset.header(name).grid)
        if grid.geometry.known:
            found += [name] if network.resamples(grid) else []
        elif not network.fits(grid):
            size = " × ".join(map(str, grid.size))
            what = f"{config.dataset.path(name)} states no spacing, and its {size} voxels are unlike the training's"
            faults.append(f"{what}; give it with --source_spacing")
    raise_faults(faults, "volumes cannot be brought to the grid of the network", DatasetError)
    return found


def _spaced(config: TestConfig, grid: Grid) -> Grid:
    """Return a grid with the spacing of ``--source_spacing`` where it has none."""
    if grid.geometry.known or config.source_spacing is None:
        return grid
    return Grid(grid.size, dataclasses.replace(grid.geometry, spacing=config.source_spacing, known=True))


def _load(config: TestConfig, name: str) -> Volume:
    """Read a volume as it is tested: its own grid counts, not that of the file it was prepared from."""
    volume = config.dataset.load(name)
    return dataclasses.replace(volume, geometry=_spaced(config, volume.grid).geometry, original=None)


def evaluate_volumes(
    model: LoadedModel[TestConfig], network: NetworkInput, names: Sequence[str], threads: int
) -> Iterator[VolumeResult]:
    """Predict and evaluate volumes, distributed over the ranks; yield the results in order, on every rank.

    Args:
        network: brings the volumes to the grid of the network.
        threads: number of threads per rank. With a GPU, several let the metrics of some volumes be computed while the
            next ones are predicted; on a CPU (0), prediction keeps all cores busy.
    """
    predicting = Lock()

    def evaluate(name: str) -> VolumeResult:
        volume = _load(model.config, name)
        image = dataclasses.replace(volume, label=None)
        prepared = network.prepare(image)[0] if volume.geometry.known else image
        with predicting:
            probabilities = model.probabilities(prepared.image)
        probabilities = model.corrected(prepared, probabilities)
        prediction = model.label_map(to_original_grid(probabilities, prepared))
        rows = case_metrics(volume, prediction, model.config.num_classes, model.config.metrics)
        return VolumeResult(name, prediction, rows)

    chunk = distributed.world_size() * max(1, 4 * threads)
    for first in range(0, len(names), chunk):
        yield from distributed.share_out(evaluate, names[first : first + chunk], threads=threads)


def _used_in_training(dataset: Dataset, names: Sequence[str]) -> Iterator[str]:
    """Yield a warning for each list of training that holds tested volumes."""
    for list_name, use in (("train.txt", "trains on"), ("val.txt", "selects the network by")):
        with contextlib.suppress(InputError):
            if used := [name for name in dataset.names(list_name) if name in names]:
                what = f"{dataset.root / list_name} {use} {len(used)} of the {len(names)} volumes to test"
                yield f"warning: {what} ({listed(used)}), so the figures are not those of unseen scans"


def _write_results(model: LoadedModel[TestConfig], results: Iterable[VolumeResult]) -> dict[str, Any]:
    """Write predictions and metrics as they come in, print the table, and return the summary."""
    config, folder = model.config, RunFolder(model.trained.folder, model.config.model)
    rows: list[Row] = []
    with write_test_predictions(folder.test_predictions) as add:  # for the report
        for result in results:
            add(result.name, result.prediction)
            rows += result.rows
            if config.save_pred is not None:
                volume = _load(config, result.name)
                arrays = (result.prediction, volume.image, volume.label)
                for path, array in zip(config.saved(result.name), arrays, strict=True):
                    write_image(path, array, volume.geometry)
        summary = summarize(rows)
        content = {
            "checkpoint": str(model.trained.checkpoint),
            "root_path": str(config.root_path),
            "test_list": config.test_list,
            "patch_size": list(config.patch_size),
            "stride": [config.stride_xy, config.stride_xy, config.stride_z],
            "source_spacing": config.source_spacing and list(config.source_spacing),
            "zooms": list(config.zooms),
            "largest_component": config.largest_component,
            "decision_bias": model.predictor.bias,
            "correction": model.correction is not None,
            "metrics": config.metrics,
            "precision": model.predictor.precision,
            "device": model.predictor.device.type,
            "class_names": {str(c): name for c, name in model.class_names.items()},
            "summary": summary,
            "per_case": rows,
        }
        kept = _keep_earlier_results(folder, content)
    write_csv(folder.test_table, rows, model.class_names)
    write_json(folder.test_metrics, content)
    print(table(summary, config.metrics, model.class_names))  # only now: output that breaks off costs no result
    if kept is not None:
        print(f"the earlier test has other results, kept as {kept}")
    print(f"written: {folder.test_table} and {folder.test_metrics.name}")
    if config.save_pred is not None:
        print(f"predictions, images and labels: {config.save_pred}")
    return summary


def _keep_earlier_results(folder: RunFolder, content: dict[str, Any]) -> Path | None:
    """Copy the files of an earlier test with other results to test_metrics_1.json and so on; return the first copy.

    The files themselves stay until the new ones replace them.
    """
    with contextlib.suppress(InputError):  # a damaged file is kept, too
        if read_json(folder.test_metrics, "") in (None, content):
            return None

    def numbered(path: Path, number: int) -> Path:
        return path.with_name(f"{path.stem}_{number}{path.suffix}")

    free = next(number for number in itertools.count(1) if not numbered(folder.test_metrics, number).exists())
    for path in (folder.test_metrics, folder.test_table, folder.test_predictions):
        if path.exists():
            with replacing(numbered(path, free)) as partial:
                shutil.copyfile(path, partial)
    return numbered(folder.test_metrics, free)
