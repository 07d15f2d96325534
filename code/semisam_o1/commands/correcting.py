"""Correction of predictions by the cohort of their run: its scans, and its labels after the round of the network."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semisam_o1.core import distributed
from semisam_o1.core.errors import InputError
from semisam_o1.core.terminal import progress
from semisam_o1.data.dataset.cache import ScratchCache
from semisam_o1.data.dataset.prediction import Prediction
from semisam_o1.data.dataset.volumes import Dataset, Volume, content_hash
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.preflight.inspection import VolumeInfo
from semisam_o1.data.sampling.store import VolumeStore
from semisam_o1.features.extract import FEATURE_SETS, CohortAccess, VolumeFeatures, extract_features
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.propagation.cohort import CohortAtlas
from semisam_o1.refinement.correction import CohortCorrection
from semisam_o1.runs.find import TrainedModel, read_sound_arguments
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, load_round

DEFAULTS = {item.name: item.default for item in fields(TrainConfig)}  # for what args.json does not state


@dataclass(frozen=True)
class RunCohort:
    """The cohort of a run: its scans, and their labels after a round.

    Attributes:
        arguments: of the training.
        features_key: of the feature set that compared the scans.
        hashes: hash of the image of every training volume by name, the labeled ones first.
        label_hashes: hash of the label of every labeled one by name.
    """

    folder: RunFolder
    round: int
    arguments: dict[str, Any]
    features_key: str
    hashes: dict[str, str]
    label_hashes: dict[str, str]

    @classmethod
    def of(cls, trained: TrainedModel, round_: int) -> RunCohort:
        """Read what args.json states; raises InputError if that is not enough."""
        content = read_sound_arguments(trained.folder / "args.json")
        arguments, data, features = DEFAULTS | content["arguments"], content.get("data"), content.get("features")
        parts = [data.get(part) if isinstance(data, dict) else None for part in ("train.txt", "labels")]
        sound = all(isinstance(part, dict) and all(isinstance(v, str) for v in part.values()) for part in parts)
        if not (sound and isinstance(features, str) and arguments["features"]):
            raise InputError(f"{trained.described_in} does not state what the run was trained on")
        if arguments["labeled_num"] >= len(parts[0]):
            raise InputError(f"{trained.described_in} states no unlabeled scan")
        return cls(RunFolder(trained.folder, trained.model), round_, arguments, features, *parts)

    @property
    def dataset(self) -> Dataset:
        return Dataset(Path(self.arguments["root_path"]), self.arguments["image_key"], self.arguments["binary_label"])

    @property
    def labeled(self) -> tuple[str, ...]:
        return tuple(self.hashes)[: self.arguments["labeled_num"]]

    @property
    def unlabeled(self) -> tuple[str, ...]:
        return tuple(self.hashes)[self.arguments["labeled_num"] :]

    def label(self, name: str) -> Prediction:
        """Return the label of an unlabeled volume, with its confidence; raises InputError if a file is damaged."""
        prediction = load_round(self.folder, self.round, [name]).of(name)
        if prediction.confidence is None:
            raise InputError(f"{self.folder.confidence(self.round)} is missing")
        known = prediction.label.max(initial=0) < self.arguments["num_classes"]
        if not known or prediction.confidence.shape != prediction.label.shape:
            raise InputError(f"{self.folder.pseudo_labels(self.round)} holds no label of {name} that a run wrote")
        return prediction

    def checked(self) -> dict[str, VolumeInfo]:
        """Read all scans and labels and return what is known of the scans; raises InputError if any of them changed."""
        info, dataset = {}, self.dataset
        for name in progress(list(self.hashes), "checking the cohort"):
            if not dataset.path(name).is_file():
                raise InputError(f"{dataset.path(name)}, a scan of the run's cohort, is missing")
            volume, label_hash = dataset.load(name), self.label_hashes.get(name)
            same = content_hash(volume.image) == self.hashes[name]
            if name in self.labeled:
                same = same and volume.label is not None and content_hash(volume.label) == label_hash
            else:
                same = same and self.label(name).label.shape == volume.image.shape
            if not same:
                raise InputError(f"{dataset.path(name)} changed since the run")
            info[name] = VolumeInfo(name, volume.image.shape, self.hashes[name], label_hash, volume.geometry)
        return info


class ScanCorrection:
    """Corrects the network's predictions of scans that need not be of the cohort. Safe to use from several threads.

    Raises:
        InputError: if scans or labels of the cohort are missing or are not those of the run.
    """

    def __init__(self, cohort: RunCohort, device: torch.device):
        arguments, dataset = cohort.arguments, cohort.dataset
        feature_set = FEATURE_SETS[arguments["features"]](Path(arguments["sam_ckpt"]), device)
        if feature_set.key != cohort.features_key:
            raise InputError(f"the run took its features from another checkpoint than {arguments['sam_ckpt']}")
        self._info, self._store = cohort.checked(), CohortAndGuests(dataset)
        self._cache = ScratchCache(dataset.root / "features", cohort.folder.cache)
        self._feature_set, self._numbers, self._describing = feature_set, itertools.count(), Lock()
        self._features, _ = extract_features(
            lambda name: self._store.image(name).numpy(), cohort.hashes, feature_set, self._cache, progress
        )
        names = Cohort(cohort.labeled, cohort.unlabeled, (), self._info)
        access = CohortAccess(names, self._store, self._features, feature_set.key, arguments["num_classes"])
        compare = arguments["features"] != "builtin"
        atlas = CohortAtlas(access, self._cache, arguments["knn_k"], device, arguments["registration"], compare)
        self._correct = CohortCorrection(atlas, cohort.label)

    def __call__(self, volume: Volume, probabilities: np.ndarray) -> np.ndarray:
        """Return class probabilities (C, W, H, D) float32 of a volume on the network's grid, corrected."""
        name = f"/{next(self._numbers)}/"  # no name of a file: a scan of the cohort may be predicted, too
        try:
            self._store.guests[name] = torch.from_numpy(volume.image), None
            self._info[name] = VolumeInfo(name, volume.image.shape, name, None, volume.geometry)
            with self._describing:  # an encoder on a GPU has room for one volume
                self._features[name] = VolumeFeatures.of(volume.image, self._feature_set)
            return self._correct(name, torch.from_numpy(probabilities)).numpy()
        finally:
            for known in (self._store.guests, self._info, self._features):
                known.pop(name, None)
            self._correct.atlas.forget(name)
            self._cache.drop(name)


class CohortAndGuests(VolumeStore):
    """The volumes of a dataset, read at each request, and others in memory."""

    def __init__(self, dataset: Dataset):
        super().__init__(dataset, (), "none", torch.device("cpu"))
        self.guests: dict[str, tuple[Tensor, Tensor | None]] = {}

    def _get(self, name: str) -> tuple[Tensor, Tensor | None]:
        return self.guests[name] if name in self.guests else super()._get(name)


def load_correction(
    trained: TrainedModel, record: RoundRecord | None, wanted: bool | None, device: torch.device
) -> ScanCorrection | None:
    """Return the correction of a network's predictions; None if it is not wanted, cannot be had, or would not pay.

    Args:
        record: of the network's round, None where that is not known.
        wanted: None leaves it to what the run found out.

    Raises:
        InputError: if it is wanted and cannot be had.
    """
    fused = record is not None and trained.arguments.get("refinement") == "fusion"
    if wanted is False or (wanted is None and not (fused and _has_labels(trained, record) and record.corrects)):
        return None
    try:
        if not fused:
            raise InputError(f"{trained.checkpoint} is not known to be of a round of a run with --refinement fusion")
        return ScanCorrection(RunCohort.of(trained, record.round), device)
    except InputError as error:
        if wanted:
            raise InputError(f"--correction on: {error}") from None
        if distributed.is_main():
            print(f"warning: predictions are not corrected by the labels of the cohort: {error}")
        return None


def _has_labels(trained: TrainedModel, record: RoundRecord) -> bool:
    """Return whether the labels of a round are there: a network that was passed on comes without."""
    return RunFolder(trained.folder, trained.model).pseudo_labels(record.round).is_file()
