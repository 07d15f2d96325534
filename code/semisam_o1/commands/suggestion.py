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
from semisam_o1.propagation.representativeness import Candidate, Distances, distances_between, rank, rank_beside
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


@dataclass(frozen=True)
class LabelQuality:
    """What a round of a run tells of its labels, by the name of the unlabeled scan."""

    expected: dict[str, float]  # Dice estimated without truth, mean over classes; empty unless known of every scan
    uncertainty: dict[str, float]  # mean entropy in nats; empty in round 0

    @property
    def measure(self) -> str:
        return "expected Dice" if self.expected else "uncertainty"

    def shown(self, name: str) -> str:
        """Return the measure of a scan as text."""
        return f"{self.expected[name]:.3f}" if self.expected else f"{self.uncertainty[name]:.4f}"

    @property
    def failing(self) -> dict[str, float]:
        """How much every label is expected to fail: 1 − expected Dice, or the uncertainty where that is not known."""
        return {name: 1 - dice for name, dice in self.expected.items()} or self.uncertainty


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
        ranking, quality = rank(cohort_distances(dataset, names, features, config.sam_ckpt, device)), None
        heading = f"scans of {train_list}, {features} features"
        preparation = f"{shell_command('prepare')} nifti --images … --labels … --template {ranking[0].name}"
        what, advice = "suggested template", f"label it, then: {preparation} --overwrite {dataset.root}"
    else:
        run = read_run(config.run, config.backbone, config.root_path)
        quality = label_quality(run)
        features = config.features or run.arguments["features"]
        ranking = rank_next(run, quality, features, config.sam_ckpt, device)
        after = f"round {run.records[-1].round} of {run.folder.path}"
        counted = "1 − expected Dice" if quality.expected else "uncertainty"
        heading = f"unlabeled scans after {after}, by what the others gain; these count by their {counted}"
        put = f"{run.dataset.root} {ranking[0].name} MASK --labeled_num {run.arguments['labeled_num']}"
        what, advice = "label next", f"draw its mask, then: {shell_command('label')} {put}"
    print(f"{len(ranking)} {heading}", table(ranking, config.top, quality), sep="\n")
    print(f"{what}: {ranking[0].name}", advice, sep="\n")


def label_quality(results: RunResults) -> LabelQuality:
    """Return how good the labels of a run's last round are expected to be.

    Raises:
        InputError: if the run has not come that far yet, or its list of scans has changed.
    """
    folder, unlabeled = results.folder, results.unlabeled
    with open_round(folder.pseudo_labels(results.records[-1].round)) as labels:
        dice = {name: values for name in labels.names if (values := labels.expected(name)) is not None}
        entropy = {name: value for name in labels.names if (value := labels.uncertainty(name)) is not None}
    if not (dice or entropy):  # propagated by prototypes, or by an earlier version
        raise InputError(f"{folder.path}: round 0 does not tell how good its labels are; train for a round first")
    if set(unlabeled) != {*dice, *entropy}:
        remedy = "put it back, or train on what it names now and ask that run"
        raise InputError(f"{results.dataset.root / 'train.txt'} is not what {folder.path} was trained on; {remedy}")
    if len(unlabeled) < 2:
        raise InputError(f"{folder.path} has one unlabeled scan only; there is nothing to choose from")
    known = set(dice) == set(unlabeled)  # refinement by votes leaves some without
    return LabelQuality({name: float(np.mean(dice[name])) for name in unlabeled} if known else {}, entropy)


def rank_next(
    results: RunResults, quality: LabelQuality, features: str, checkpoint: Path, device: torch.device
) -> list[Candidate]:
    """Rank the unlabeled scans of a run by what their label adds to those that there are.

    What the others gain counts by how much their labels are expected to fail. A scan's own label does not count: odd
    and noisy scans fail, and make poor templates.
    """
    distances = cohort_distances(results.dataset, [*results.labeled, *results.unlabeled], features, checkpoint, device)
    return rank_beside(distances, results.labeled, quality.failing)


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


def table(candidates: Sequence[Candidate], top: int, quality: LabelQuality | None = None) -> str:
    """Return a table of a heading, the first candidates and the last one; with ``quality``, two more columns."""
    ranked = list(enumerate(candidates, start=1))
    if len(ranked) > top + 1:
        ranked = [*ranked[:top], ranked[-1]]
    measure = [quality.measure, "gain"] if quality else []
    heading = "mean distance to the others (nearest – farthest); the average scan has 1"
    rows = [["place", "scan", *measure, heading]]
    for place, c in ranked:
        own = [quality.shown(c.name), f"{c.gain:.3f}"] if quality else []
        rows.append([str(place), c.name, *own, f"{c.distance:.3f} ({c.nearest:.3f} – {c.farthest:.3f})"])
    return "\n".join("  " + line for line in text_table(rows, "><>><" if measure else "><<"))
