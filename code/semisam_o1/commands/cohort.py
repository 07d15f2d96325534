"""A label file for every scan of a run's dataset, and a table that says where each label comes from."""

from __future__ import annotations

import contextlib
import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from semisam_o1.commands.export import export_path, to_original_grid, write_image
from semisam_o1.commands.judging import Judgment, judge
from semisam_o1.commands.outputs import check_outputs, source_files
from semisam_o1.commands.predict_config import PredictConfig
from semisam_o1.commands.trained import LoadedModel, load_model
from semisam_o1.core.atomic_io import write_text
from semisam_o1.core.device import resolve_device
from semisam_o1.core.errors import DatasetError, InputError, RunError, raise_faults
from semisam_o1.core.terminal import progress
from semisam_o1.data.dataset.volumes import Dataset, VolumeHeader
from semisam_o1.data.preparation.grid import resample_label
from semisam_o1.runs.records import RoundLabels, best_round, open_round
from semisam_o1.runs.results import RunResults, read_run

LISTS = ("train.txt", "val.txt", "test.txt")
TABLE = "labels.csv"
COLUMNS = ("scan", "list", "label", "expected_dice", "uncertainty", "file")
OWN, ROUND, NETWORK, NONE = "own mask", "round", "network", "none"

Headers = Mapping[str, tuple[VolumeHeader, str]]
"""Name of a scan → its header, and the list that names it."""


@dataclass(frozen=True)
class CohortScan:
    """A scan of the dataset and where its label comes from.

    Attributes:
        list_name: the list that names it, empty for a scan in no list.
        origin: OWN, ROUND, NETWORK or NONE.
        path: the file to write.
        uncertainty: of the round's label, mean entropy in nats; None where it is not known.
    """

    header: VolumeHeader
    list_name: str
    origin: str
    path: Path
    uncertainty: float | None = None


def export_cohort(config: PredictConfig) -> list[Path]:
    """Write a label for every scan of the dataset of a run, and the table; return the label maps written.

    A scan that has a mask of the user gets that one, unless ``own_masks`` is off. Other training scans get their label
    of the best round, all others the network's prediction.

    Raises:
        InputError: if the run, its labels or the dataset cannot be used; no file was written then.
        RunError: if scans were skipped.
    """
    run = find_run(config)
    dataset = replace(run.dataset, root=config.root_path.expanduser()) if config.root_path else run.dataset
    failed: dict[str, str] = {}
    headers = read_headers(dataset, failed, config.continue_on_error)
    device = resolve_device(config.device)
    judgment = choose_round(config, run, dataset, headers, device)
    checkpoint = find_checkpoint(config, run, judgment.round)
    with open_round(run.folder.pseudo_labels(judgment.round)) as labels:
        scans = plan(config, run, dataset, headers, labels, checkpoint is not None)
        _check_labels(scans, labels, dataset)
        planned = {scan.header.name: [scan.path] for scan in scans.values() if scan.origin != NONE}
        check_table(config.out)
        inputs = [*source_files(dataset), *dataset.root.glob("data/*")]
        names = check_outputs(planned, "--out", inputs, config.overwrite, config.skip_existing)
        predicted = any(scans[name].origin == NETWORK for name in names)
        model = load_model(replace(config, exp=None, ckpt=str(checkpoint)), device) if predicted else None
        for name in progress(names, "exporting"):
            try:
                _write(scans[name], dataset, labels, model)
            except InputError as error:
                if not config.continue_on_error:
                    raise RunError(f"{error}; --skip_existing goes on, --continue_on_error leaves it out") from error
                failed[name] = str(error)
    write_table(config.out / TABLE, scans, judgment)
    print(summary(scans, labels.path, judgment, config.out / TABLE))
    if failed:
        listing = "\n".join(f"  {reason}" for reason in failed.values())
        raise RunError(f"{len(failed)} scans were skipped, all others are written:\n{listing}")
    return [scans[name].path for name in names]


def find_run(config: PredictConfig) -> RunResults:
    """Return the run that the flags name; its labels may exist before its first checkpoint does."""
    try:
        found = config.find(config.ckpt or "args.json")
    except InputError:
        found = config.find(config.ckpt)
    if not found.arguments:
        raise InputError(f"{found.folder} holds no args.json, so the run's scans are not known; use --scans")
    return read_run(found.folder)


def read_headers(dataset: Dataset, failed: dict[str, str], continue_on_error: bool) -> Headers:
    """Return the header and the list of every scan of a dataset, those that no list names at the end.

    Args:
        failed: takes the names of scans that cannot be read, and why.

    Raises:
        DatasetError: listing these, unless ``continue_on_error``.
    """
    lists = {}
    for list_name in LISTS:
        if list_name == "train.txt" or (dataset.root / list_name).exists():
            lists |= {name: list_name for name in dataset.names(list_name) if name not in lists}
    unlisted = sorted({path.stem for path in dataset.root.glob("data/*.h5")} - lists.keys())
    headers = {}
    for name, list_name in progress(list((lists | dict.fromkeys(unlisted, "")).items()), "reading"):
        try:
            headers[name] = dataset.header(name), list_name
        except DatasetError as error:
            failed[name] = str(error)
    if not continue_on_error:
        raise_faults(list(failed.values()), "scans cannot be read (--continue_on_error skips them)", DatasetError)
    return headers


def choose_round(
    config: PredictConfig, run: RunResults, dataset: Dataset, headers: Headers, device: torch.device
) -> Judgment:
    """Return the round that ``--round`` names, else the best one."""
    if config.round is None:
        if config.own_masks and all(header.labeled for header, _ in headers.values()):
            return Judgment(best_round(run.records).round, {}, "every scan has a mask of your own")
        return judge(run, dataset, device)
    scores = {record.round: record.validation_dice for record in run.records}
    if config.round not in scores:
        finished = ", ".join(map(str, scores))
        raise InputError(f"--round {config.round} of {run.folder.path} is not finished; choose among {finished}")
    known = {round_: score for round_, score in scores.items() if score is not None}
    return Judgment(config.round, known, "as --round says")


def find_checkpoint(config: PredictConfig, run: RunResults, round_: int) -> Path | None:
    """Return the network that predicts the scans outside of training: of that round, else the best one, if any."""
    named = [config.find(config.ckpt).checkpoint] if config.ckpt else []
    candidates = [*named, run.folder.round_best(round_), run.folder.best_model]
    return next((path for path in candidates if path.is_file()), None)


def plan(
    config: PredictConfig,
    run: RunResults,
    dataset: Dataset,
    headers: Headers,
    labels: RoundLabels,
    trained: bool,
) -> dict[str, CohortScan]:
    """Return where the label of every scan comes from, by name."""
    labeled, scans = set(dataset.names("train.txt")[: run.arguments["labeled_num"]]), {}
    for name, (header, list_name) in headers.items():
        origin, uncertainty = NETWORK if trained else NONE, None
        if header.labeled and config.own_masks:
            origin = OWN
        elif name in labels.names and name not in labeled:
            origin, uncertainty = ROUND, labels.uncertainty(name)
        path = export_path(config.out, name, header.source)
        scans[name] = CohortScan(header, list_name, origin, path, uncertainty)
    return scans


def _check_labels(scans: Mapping[str, CohortScan], labels: RoundLabels, dataset: Dataset) -> None:
    """Read every label of the round that is to be written: none may be damaged, or of another size than its scan."""
    faults = []
    for name in (name for name, scan in scans.items() if scan.origin == ROUND):
        shape, size = labels.label(name).shape, scans[name].header.grid.size
        if shape != size:
            again = f"{dataset.path(name)} was prepared again since the run, so train again"
            faults.append(f"{labels.path}: the label of {name} has shape {shape}, its volume {size}; {again}")
    raise_faults(faults, "labels do not fit their scans")


def _write(scan: CohortScan, dataset: Dataset, labels: RoundLabels, model: LoadedModel[PredictConfig] | None) -> None:
    header = scan.header
    original = header.original or header.grid
    if scan.origin == NETWORK:
        volume = dataset.load(header.name)
        label = model.label_map(to_original_grid(model.probabilities(volume.image), volume))
    else:
        prepared = dataset.label(header.name) if scan.origin == OWN else labels.label(header.name)
        label = resample_label(prepared, header.grid, original)
    write_image(scan.path, label, original.geometry, header.source)


def check_table(folder: Path) -> None:
    """Refuse to replace a table of that name that this command did not write."""
    path = folder / TABLE
    with contextlib.suppress(OSError, ValueError):
        if path.exists() and not path.read_text(encoding="utf-8").startswith(",".join(COLUMNS)):
            raise InputError(f"--out: {path} is another table than the one of labels; move it away")


def write_table(path: Path, scans: Mapping[str, CohortScan], judgment: Judgment) -> None:
    """Write one row per scan; the expected Dice is that of the round, or of the network, on the validation scans."""
    network = max((score for round_, score in judgment.scores.items() if round_), default=None)
    expected = {
        ROUND: judgment.scores.get(judgment.round),
        NETWORK: judgment.scores.get(judgment.round, network) if judgment.round else network,
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, scan in scans.items():
        origin = f"round {judgment.round}" if scan.origin == ROUND else scan.origin
        numbers = (expected.get(scan.origin), scan.uncertainty)
        file = scan.path.name if scan.origin != NONE else ""
        writer.writerow([name, scan.list_name, origin, *("" if n is None else f"{n:.4f}" for n in numbers), file])
    write_text(path, text.getvalue())


def summary(scans: Mapping[str, CohortScan], labels: Path, judgment: Judgment, table: Path) -> str:
    """Return the sentences about an export."""
    counts = Counter(scan.origin for scan in scans.values())
    texts = {
        OWN: "with your own mask",
        ROUND: f"with the label of round {judgment.round}",
        NETWORK: "predicted by the network",
    }
    parts = [f"{counts[origin]} {text}" for origin, text in texts.items() if counts[origin]]
    lines = [f"{labels}: {judgment.reason}", f"{len(scans)} scans: {', '.join(parts)}; {table} lists them"]
    if counts[NONE]:
        lines.append(f"{counts[NONE]} scans outside of training have no label: no network is trained yet")
    return "\n".join(lines)
