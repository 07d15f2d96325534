"""Advice on labeling: the scan that stands best for a cohort, and the one to label after a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import torch

from semisam_o1.core.errors import InputError
from semisam_o1.core.progress import progress
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preflight.inspection import Need, inspect
from semisam_o1.features.extract import FEATURE_SETS, VolumeFeatures, extract_features
from semisam_o1.propagation.representativeness import Candidate, Distances, distances_between, rank
from semisam_o1.runs.results import RunResults, read_run


def suggest_template(
    root: Path, list_name: str, image_key: str, features: str, checkpoint: Path, device: str, top: int
) -> str:
    """Return a table of the scans that stand best for the cohort of a list. No label is read.

    Raises:
        InputError: if the list or a scan cannot be used.
    """
    dataset = Dataset(root.expanduser().resolve(), image_key)
    names = dataset.names(list_name)
    if len(names) < 3:
        raise InputError(
            f"{dataset.root / list_name} names {len(names)} scans; from three on, one can stand better for the others "
            "than another. Label the clearer one"
        )
    ranking = rank(cohort_distances(dataset, names, features, checkpoint, device))
    lines = [
        f"{len(names)} scans of {dataset.root / list_name}, {features} features",
        *_table(ranking, top),
        f"suggested template: {ranking[0].name}",
        f"label it, then: python code/prepare_data.py nifti --images … --labels … --template {ranking[0].name} "
        f"--overwrite {dataset.root}",
    ]
    return "\n".join(lines)


def suggest_next(run: str, features: str | None, checkpoint: Path, device: str, top: int) -> str:
    """Return a table of the scans of a run that are worth labeling next: those that stand best for uncertain ones.

    Raises:
        InputError: if the run has not been trained for a round yet, or its list of scans has changed.
    """
    results = read_run(run)
    ranking, uncertainty = rank_next(results, features or results.arguments["features"], checkpoint, device)
    lines = [
        f"{len(ranking)} unlabeled scans after round {len(results.records) - 1} of {results.folder.path}; the others "
        "count by their uncertainty",
        *_table(ranking, top, uncertainty),
        f"label next: {ranking[0].name}",
        f"put it second in {results.dataset.root / 'train.txt'}, give its file the label, and train with --labeled_num "
        f"{results.arguments['labeled_num'] + 1}",
    ]
    return "\n".join(lines)


def rank_next(
    results: RunResults, features: str, checkpoint: Path, device: str
) -> tuple[list[Candidate], dict[str, float]]:
    """Return the unlabeled scans of a run by how well they stand for each other, and their uncertainties.

    They count by their uncertainty. A scan's own does not speak for it: odd and noisy scans are uncertain, and make
    poor templates.

    Raises:
        InputError: if the run has not been trained for a round yet, or its list of scans has changed.
    """
    if len(results.records) < 2:
        raise InputError(f"{results.folder.path}: no round is finished yet, so no uncertainty is known; train first")
    names = results.dataset.names("train.txt")
    unlabeled = names[results.arguments["labeled_num"] :]
    with h5py.File(results.folder.pseudo_labels(len(results.records) - 1)) as file:
        known = {name: item.attrs.get("uncertainty") for name, item in file.items()}  # labeled scans have none
    uncertainty = {name: float(value) for name, value in known.items() if value is not None}
    if set(unlabeled) != set(uncertainty):
        raise InputError(
            f"{results.dataset.root / 'train.txt'} is not what {results.folder.path} was trained on; put it back, or "
            "train on what it names now and ask that run"
        )
    if len(unlabeled) < 2:
        raise InputError(f"{results.folder.path} has one unlabeled scan only; there is nothing to choose from")
    ranking = rank(cohort_distances(results.dataset, unlabeled, features, checkpoint, device), uncertainty)
    return ranking, uncertainty


def cohort_distances(dataset: Dataset, names: Sequence[str], features: str, checkpoint: Path, device: str) -> Distances:
    """Return how far the scans are from each other.

    Args:
        features: compared beside what registration goes by; computed, or found where training keeps them.

    Raises:
        InputError: with every scan that cannot be used.
    """
    feature_set = FEATURE_SETS[features](checkpoint, torch.device(device))
    need = Need(num_classes=2, label=False, read_label=False)
    reports = [inspect(dataset, name, need) for name in progress(names, "checking")]
    faults = [fault for report in reports for fault in report.faults]
    if faults:
        raise InputError("\n  ".join([f"{len(faults)} faults in the dataset:", *faults]) if faults[1:] else faults[0])
    found: dict[str, VolumeFeatures] | None = None
    if features != "builtin":  # those, registration goes by anyway
        hashes = {report.info.name: report.info.hash for report in reports}
        cache = ArrayCache(dataset.root / "features")
        found, _ = extract_features(lambda name: dataset.load(name).image, hashes, feature_set, cache, progress)
    shapes = {report.info.name: report.info.shape for report in reports}
    return distances_between(lambda name: dataset.load(name).image, shapes, found, device=device, progress=progress)


def _table(candidates: Sequence[Candidate], top: int, uncertainty: Mapping[str, float] | None = None) -> list[str]:
    """Return a heading, the first candidates and the last one; with ``uncertainty``, a column of it."""
    shown = list(enumerate(candidates, start=1))
    if len(shown) > top + 1:
        shown = [*shown[:top], shown[-1]]
    width = max(len(candidate.name) for _, candidate in shown)
    own = "" if uncertainty is None else "  uncertainty"
    lines = [
        f"  place  {'scan':<{width}}{own}  mean distance to the others (nearest – farthest); the average scan has 1"
    ]
    for place, c in shown:
        own = "" if uncertainty is None else f"  {uncertainty[c.name]:11.4f}"
        lines.append(f"  {place:5d}  {c.name:<{width}}{own}  {c.distance:.3f} ({c.nearest:.3f} – {c.farthest:.3f})")
    return lines
