"""Advice on labelling: the scan that stands best for a cohort, and the one to label after a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import torch

from ..data.cache import ArrayCache
from ..data.inspection import Need, inspect
from ..data.volumes import Dataset
from ..errors import InputError
from ..features.extract import VolumeFeatures, extract_features, make_feature_set
from ..features.representativeness import Candidate, rank
from ..progress import progress
from .run_results import read_run


def suggest_template(
    root: Path, list_name: str, image_key: str, features: str, checkpoint: Path, device: str, top: int
) -> str:
    """Return a table of the scans that stand best for the cohort of a list. No label is read.

    Raises:
        InputError: if the list or a scan cannot be used.
    """
    dataset = Dataset(root.expanduser().resolve(), image_key)
    names = dataset.names(list_name)
    if len(names) < 2:
        raise InputError(f"{dataset.root / list_name} names one scan only; there is nothing to choose from")
    candidates = rank(cohort_features(dataset, names, features, checkpoint, device), _shown)
    best = candidates[0]
    lines = [
        f"{len(names)} scans of {dataset.root / list_name}, {features} features",
        *_table(candidates, top),
        f"suggested template: {best.name}",
        f"label it, then: python code/prepare_data.py nifti --images … --labels … --template {best.name} --overwrite "
        f"{dataset.root}",
    ]
    return "\n".join(lines)


def suggest_next(run: str, features: str | None, checkpoint: Path, device: str, top: int) -> str:
    """Return a table of the scans of a run that are worth labelling next: uncertain ones that stand for many.

    The score is the uncertainty of the last round, over its mean, times the mean distance of the cohort over
    the scan's own.

    Raises:
        InputError: if the run has not been trained for a round yet.
    """
    results = read_run(run)
    if len(results.records) < 2:
        raise InputError(f"{results.folder.path}: no round is finished yet, so no uncertainty is known; train first")
    dataset = results.dataset
    names = dataset.names("train.txt")
    labelled = set(names[: results.arguments["labeled_num"]])
    with h5py.File(results.folder.pseudo_labels(len(results.records) - 1)) as file:
        uncertainty = {name: float(file[name].attrs["uncertainty"]) for name in names if name not in labelled}
    kept = features or results.arguments["features"]
    candidates = rank(cohort_features(dataset, names, kept, checkpoint, device), _shown)
    mean = sum(uncertainty.values()) / len(uncertainty)
    scores = {c.name: uncertainty[c.name] / mean / c.distance for c in candidates if c.name in uncertainty}
    order = sorted(scores, key=lambda name: -scores[name])
    place = {candidate.name: i for i, candidate in enumerate(candidates, start=1)}
    width = max(map(len, order[:top]))
    lines = [
        f"{len(order)} unlabelled scans after round {len(results.records) - 1} of {results.folder.path}",
        f"  {'scan':<{width}}  score  uncertainty  place as a template",
        *(f"  {name:<{width}}  {scores[name]:5.2f}  {uncertainty[name]:11.4f}  {place[name]:5d} of {len(candidates)}"
          for name in order[:top]),
        f"label next: {order[0]}",
        f"put it second in {dataset.root / 'train.txt'}, give its file the label, and train with --labeled_num "
        f"{len(labelled) + 1}",
    ]  # fmt: skip
    return "\n".join(lines)


def cohort_features(
    dataset: Dataset, names: Sequence[str], features: str, checkpoint: Path, device: str
) -> dict[str, VolumeFeatures]:
    """Return the features of the scans, computed or found where training keeps them.

    Raises:
        InputError: with every scan that cannot be used.
    """
    feature_set = make_feature_set(features, checkpoint, torch.device(device))
    need = Need(num_classes=2, label=False, read_label=False)
    reports = [inspect(dataset, name, need) for name in progress(names, "checking")]
    faults = [fault for report in reports for fault in report.faults]
    if faults:
        raise InputError("\n  ".join([f"{len(faults)} faults in the dataset:", *faults]) if faults[1:] else faults[0])
    hashes = {report.info.name: report.info.hash for report in reports}
    found, _ = extract_features(
        names, lambda name: dataset.load(name).image, hashes.__getitem__, feature_set,
        ArrayCache(dataset.root / "features"), lambda missing: progress(missing, "features"),
    )  # fmt: skip
    return found


def _shown(names: Sequence[str]) -> Sequence[str]:
    return progress(names, "comparing")


def _table(candidates: Sequence[Candidate], top: int) -> list[str]:
    shown = list(enumerate(candidates, start=1))
    if len(shown) > top + 1:
        shown = [*shown[:top], shown[-1]]
    width = max(len(candidate.name) for _, candidate in shown)
    lines = [f"  place  {'scan':<{width}}  mean distance to the others (nearest – farthest); the average scan has 1"]
    for place, c in shown:
        lines.append(f"  {place:5d}  {c.name:<{width}}  {c.distance:.3f} ({c.nearest:.3f} – {c.farthest:.3f})")
    return lines
