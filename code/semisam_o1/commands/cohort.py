"""A label file for every scan of a run's dataset, and a table that says where each label comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from semisam_o1.commands.class_file import CLASSES, CLASSES_HEADING, write_classes
from semisam_o1.commands.cohort_labels import NETWORK, NONE, OWN, ROUND, CohortScan, LabelWriter, RoundFiles, open_files
from semisam_o1.commands.cohort_table import COLUMNS, TABLE, CohortTable, expected_of, summary
from semisam_o1.commands.export import export_path
from semisam_o1.commands.judging import Judgment, judge
from semisam_o1.commands.outputs import check_outputs, check_text_file, source_files
from semisam_o1.commands.predict_config import PredictConfig
from semisam_o1.commands.trained import load_model
from semisam_o1.core.device import resolve_device
from semisam_o1.core.errors import DatasetError, InputError, RunError, raise_faults
from semisam_o1.core.terminal import counted, progress
from semisam_o1.data.dataset.volumes import Dataset, VolumeHeader
from semisam_o1.data.preparation.settings import Classes, Preparation, read_preparation
from semisam_o1.runs.best import best_round
from semisam_o1.runs.records import RoundLabels
from semisam_o1.runs.results import RunResults, read_run

LISTS = ("train.txt", "val.txt", "test.txt")
Headers = Mapping[str, tuple[VolumeHeader, str]]
"""Name of a scan → its header, and the list that names it."""


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
    with open_files(run.folder, judgment.round, config.probabilities) as files:
        scans = plan(config, run, dataset, headers, files.labels, checkpoint is not None)
        _check_labels(scans, files, dataset)
        planned = {name: outputs for name, scan in scans.items() if (outputs := _outputs(scan))}
        check_text_file(config.out / TABLE, ",".join(COLUMNS), "--out")
        check_text_file(config.out / CLASSES, CLASSES_HEADING, "--out")
        inputs = [*source_files(dataset), *dataset.root.glob("data/*")]
        names = check_outputs(planned, "--out", inputs, config.overwrite, config.skip_existing)
        table = CohortTable(config.out / TABLE, judgment, run.num_classes)
        kept = {name: row for name, row in table.read(scans).items() if name not in names}
        scans |= {name: replace(scans[name], expected=expected_of(row)) for name, row in kept.items()}
        predicted = any(scans[name].origin == NETWORK for name in names)
        model = load_model(replace(config, exp=None, ckpt=str(checkpoint)), device) if predicted else None
        settings = read_preparation(dataset.root) or Preparation(orientation="keep")
        writer = LabelWriter(dataset, settings, Classes(run.num_classes, run.stated_names), files, model)
        pending = set(names)
        for name in progress(names, "exporting"):
            try:
                scans[name] = writer.write(scans[name])
            except InputError as error:
                if not config.continue_on_error:
                    raise RunError(f"{error}; --skip_existing goes on, --continue_on_error leaves it out") from error
                failed[name] = str(error)
            else:
                pending.remove(name)  # at once into the table: the next scan may fail
                table.write({name: scan for name, scan in scans.items() if name not in pending}, kept)
    write_classes(config.out / CLASSES, run.stated_names)
    print(summary(scans, kept, files.labels.path, table))
    if failed:
        listing = "\n".join(f"  {reason}" for reason in failed.values())
        raise RunError(f"skipped: {counted(len(failed), 'scan')}, all others are written:\n{listing}")
    return [scans[name].path for name in names]


def find_run(config: PredictConfig) -> RunResults:
    """Return the run that the flags name; its labels may exist before its first checkpoint does."""
    try:
        found = config.find(config.ckpt or "args.json")
    except InputError:
        found = config.find(config.ckpt)
    if found.record is not None:
        raise InputError(
            f"{found.checkpoint} holds a network and no scans; give scans with --scans, or a run with --exp"
        )
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
        origin, measured = NETWORK if trained else NONE, {}
        if header.labeled and config.own_masks:
            origin = OWN
        elif name in labels.names and name not in labeled:
            origin, measured = ROUND, {"uncertainty": labels.uncertainty(name), "expected": labels.expected(name)}
        path, confidence = export_path(config.out, name, header.source), None
        if config.probabilities and origin in (ROUND, NETWORK):
            confidence = export_path(config.out, name, header.source, "confidence")
        scans[name] = CohortScan(header, list_name, origin, path, confidence, **measured)
    return scans


def _outputs(scan: CohortScan) -> list[Path]:
    """Return the files of a scan; the label map comes last, so that it stands for all of them."""
    return [] if scan.origin == NONE else [*([scan.confidence] if scan.confidence else []), scan.path]


def _check_labels(scans: Mapping[str, CohortScan], files: RoundFiles, dataset: Dataset) -> None:
    """Read every array of the round that is to be written: none may be damaged, or of another size than its scan."""
    faults = []
    for name in (name for name, scan in scans.items() if scan.origin == ROUND):
        size = scans[name].header.grid.size
        for stored in filter(None, (files.labels, files.confidences)):
            if (shape := stored.label(name).shape) != size:
                again = f"{dataset.path(name)} was prepared again since the run, so train again"
                faults.append(f"{stored.path}: the label of {name} has shape {shape}, its volume {size}; {again}")
    raise_faults(faults, "labels do not fit their scans")
