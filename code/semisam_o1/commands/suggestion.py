"""Suggestions for labeling: the scan that represents a cohort best, and the next scan to label after a run."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from semisam_o1.core.atomic_io import WriteError
from semisam_o1.core.device import resolve_device
from semisam_o1.core.errors import DatasetError, InputError, raise_faults
from semisam_o1.core.flags import AT_LEAST_1, DeviceConfig, assign, option, shell_command
from semisam_o1.core.terminal import progress, text_table
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preflight.inspection import Need, inspect
from semisam_o1.features.extract import FEATURE_SETS, VolumeFeatures, extract_features
from semisam_o1.methods import METHODS
from semisam_o1.pipeline.config import find_checkpoint, image_key_faults
from semisam_o1.propagation.representativeness import Candidate, Distances, distances_between, rank
from semisam_o1.runs.records import open_round
from semisam_o1.runs.results import RunResults, read_run

VERSION = 1  # part of the cache key, to be raised whenever distances change


@dataclass(frozen=True, kw_only=True)
class SuggestConfig(DeviceConfig):
    """Arguments of ``suggest_template.py``."""

    root: Path | None = option(None, "dataset folder; needs no label", positional=True, nargs="?", metavar="ROOT")
    run: str | None = option(None, "a trained run (folder or experiment): what to label next", metavar="RUN")
    backbone: str | None = option(
        None, "with --run: which run, where several backbones were trained", choices=tuple(METHODS)
    )
    root_path: Path | None = option(None, "with --run: its dataset folder, if that was moved", metavar="DIR")
    list: str = option("train.txt", "the scans to choose from", metavar="FILE")
    features: str | None = option(
        None, "feature set (default: sam if its checkpoint exists, else builtin)", choices=FEATURE_SETS
    )
    sam_ckpt: Path = option(Path("pretrained_ckpt/sam_med3d_turbo.pth"), "SAM-Med3D-turbo checkpoint")
    image_key: str = option("image", "HDF5 dataset that holds the image")
    top: int = option(10, "number of scans shown", within=AT_LEAST_1, metavar="N")

    def __post_init__(self) -> None:
        assign(self, sam_ckpt=find_checkpoint(self.sam_ckpt))
        super().__post_init__()

    def faults(self) -> list[str]:
        neither_or_both = (self.root is None) == (self.run is None)
        faults = ["give either ROOT, a dataset folder, or --run, a run that is finished"] if neither_or_both else []
        if self.run is None and (self.backbone or self.root_path):
            faults.append("--backbone and --root_path belong to --run; ROOT is the dataset folder itself")
        return faults + image_key_faults(self.image_key)


def suggest(config: SuggestConfig) -> None:
    """Print which scan of a dataset, or which unlabeled scan of a run, is worth labeling.

    Raises:
        InputError: if the dataset or the run cannot be used.
    """
    device = resolve_device(config.device)
    if config.run is None:
        features = config.features or ("sam" if config.sam_ckpt.is_file() else "builtin")
        dataset = Dataset(config.root.expanduser().resolve(), config.image_key)
        train_list, names = dataset.root / config.list, dataset.names(config.list)
        if len(names) < 3:
            raise InputError(
                f"{train_list} names {len(names)} scans; from three on, one can represent the others better than "
                "another. Label the clearer one"
            )
        ranking, uncertainty = rank(cohort_distances(dataset, names, features, config.sam_ckpt, device)), None
        heading = f"scans of {train_list}, {features} features"
        preparation = f"{shell_command('prepare')} nifti --images … --labels … --template {ranking[0].name}"
        what, advice = "suggested template", f"label it, then: {preparation} --overwrite {dataset.root}"
    else:
        run = read_run(config.run, config.backbone, config.root_path)
        ranking, uncertainty = rank_next(run, config.features or run.arguments["features"], config.sam_ckpt, device)
        after = f"round {run.records[-1].round} of {run.folder.path}"
        heading = f"unlabeled scans after {after}; the others count by their uncertainty"
        put = f"{run.dataset.root} {ranking[0].name} MASK --labeled_num {run.arguments['labeled_num']}"
        what, advice = "label next", f"draw its mask, then: {shell_command('label')} {put}"
    print(f"{len(ranking)} {heading}", table(ranking, config.top, uncertainty), sep="\n")
    print(f"{what}: {ranking[0].name}", advice, sep="\n")


def rank_next(
    results: RunResults, features: str, checkpoint: Path, device: torch.device
) -> tuple[list[Candidate], dict[str, float]]:
    """Rank the unlabeled scans of a run as the next one to label, and return their mean entropies, too.

    A scan's distances to the others are weighted with the uncertainty of those. Its own uncertainty does not count: odd
    and noisy scans are uncertain, and make poor templates.

    Raises:
        InputError: if the run has not been trained for a round yet, or its list of scans has changed.
    """
    folder, unlabeled = results.folder, results.unlabeled
    if len(results.records) < 2:
        raise InputError(f"{folder.path}: no round is finished yet, so no uncertainty is known; train first")
    with open_round(folder.pseudo_labels(results.records[-1].round)) as labels:
        values = {name: labels.uncertainty(name) for name in labels.names}  # None for labeled scans
    uncertainty = {name: value for name, value in values.items() if value is not None}
    if set(unlabeled) != set(uncertainty):
        remedy = "put it back, or train on what it names now and ask that run"
        raise InputError(f"{results.dataset.root / 'train.txt'} is not what {folder.path} was trained on; {remedy}")
    if len(unlabeled) < 2:
        raise InputError(f"{folder.path} has one unlabeled scan only; there is nothing to choose from")
    distances = cohort_distances(results.dataset, unlabeled, features, checkpoint, device)
    return rank(distances, uncertainty), uncertainty


def cohort_distances(
    dataset: Dataset, names: Sequence[str], features: str, checkpoint: Path, device: torch.device
) -> Distances:
    """Return the pairwise distances of scans after registration, which compares its own features and a feature set.

    They are kept in the dataset's features/, for the next time that the same scans are asked for.

    Raises:
        DatasetError: listing every scan that cannot be used.
    """
    feature_set = FEATURE_SETS[features](checkpoint, device)
    need = Need(num_classes=2, label=False, read_label=False)
    reports = [inspect(dataset, name, need) for name in progress(names, "checking")]
    raise_faults([fault for report in reports for fault in report.faults], "faults in the dataset", DatasetError)
    hashes = {report.info.name: report.info.hash for report in reports}
    shapes = {report.info.name: report.info.shape for report in reports}
    cache, key = ArrayCache(dataset.root / "features"), _key(hashes, feature_set.key)
    if (kept := cache.get(key, relative=2)) is not None:
        return Distances(list(names), [names[i] for i in kept["targets"]], _with_own(kept["relative"], kept["targets"]))
    found: dict[str, VolumeFeatures] | None = None
    if features != "builtin":  # registration compares those anyway
        found, _ = extract_features(lambda name: dataset.load(name).image, hashes, feature_set, cache, progress)
    result = distances_between(lambda name: dataset.load(name).image, shapes, found, device=device, progress=progress)
    places = np.array([result.candidates.index(name) for name in result.targets])
    with contextlib.suppress(WriteError):  # the dataset may be read-only
        cache.put(key, relative=np.nan_to_num(result.values), targets=places)
    return result


def _key(hashes: Mapping[str, str], features_key: str) -> str:
    """Return the name in the cache of the distances between scans."""
    digest = hashlib.blake2b(f"{VERSION} {features_key}".encode(), digest_size=12)
    for value in hashes.values():
        digest.update(value.encode())
    return f"distances/{digest.hexdigest()}"


def _with_own(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return stored distances with NaN for a scan to itself."""
    values = values.copy()
    values[targets, np.arange(len(targets))] = np.nan
    return values


def table(candidates: Sequence[Candidate], top: int, uncertainty: Mapping[str, float] | None = None) -> str:
    """Return a table of a heading, the first candidates and the last one; with ``uncertainty``, a column of it."""
    ranked = list(enumerate(candidates, start=1))
    if len(ranked) > top + 1:
        ranked = [*ranked[:top], ranked[-1]]
    heading = "mean distance to the others (nearest – farthest); the average scan has 1"
    rows = [["place", "scan", *(["uncertainty"] if uncertainty else []), heading]]
    for place, c in ranked:
        own = [f"{uncertainty[c.name]:.4f}"] if uncertainty else []
        rows.append([str(place), c.name, *own, f"{c.distance:.3f} ({c.nearest:.3f} – {c.farthest:.3f})"])
    return "\n".join("  " + line for line in text_table(rows, "><><" if uncertainty else "><<"))
