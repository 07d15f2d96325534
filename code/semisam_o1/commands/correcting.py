"""Correction of predictions by the cohort of their run: its scans, and its labels after the round of the network."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semisam_o1.core import distributed
from semisam_o1.core.errors import DatasetError, InputError
from semisam_o1.core.terminal import progress
from semisam_o1.data.dataset.cache import ScratchCache
from semisam_o1.data.dataset.prediction import Prediction
from semisam_o1.data.dataset.volumes import Dataset, Volume, content_hash
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.preflight.inspection import VolumeInfo
from semisam_o1.data.sampling.store import VolumeStore
from semisam_o1.features.extract import FEATURE_SETS, CohortAccess, FeatureSet, VolumeFeatures, extract_features
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.propagation.cohort import CohortAtlas
from semisam_o1.refinement.correction import CohortCorrection
from semisam_o1.runs.find import TrainedModel
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, load_round, open_round
from semisam_o1.runs.results import RunResults, read_run

OF_TRAINING = {item.name: item.default for item in fields(TrainConfig)}  # for what args.json does not state


class ScanCorrection:
    """Corrects the network's predictions of scans that need not be of the cohort. Safe to use from several threads.

    Args:
        run: the run of the network.
        record: of the network's round.

    Raises:
        InputError: if scans or labels of the cohort are missing or are not those of the run.
    """

    def __init__(self, run: RunResults, record: RoundRecord, device: torch.device):
        arguments, dataset, hashes = OF_TRAINING | run.arguments, run.dataset, _hashes(run, "train.txt")
        label_hashes, names, labeled = _hashes(run, "labels"), tuple(hashes), arguments["labeled_num"]
        info = {name: _info(dataset, name, hashes[name], label_hashes.get(name)) for name in names}
        path = run.folder.pseudo_labels(record.round)
        with open_round(path) as labels:
            if missing := [name for name in names if name not in labels.names]:
                raise InputError(f"{path} holds no label of {missing[0]}; restore the file")
        self._store = CohortAndGuests(dataset, hashes)
        self._feature_set: FeatureSet = FEATURE_SETS[arguments["features"]](Path(arguments["sam_ckpt"]), device)
        if self._feature_set.key != run.content.get("features"):
            raise InputError(f"{arguments['sam_ckpt']} is not the checkpoint that the run took its features from")
        self._cache = ScratchCache(dataset.root / "features", run.folder.cache)
        self._features, _ = extract_features(
            lambda name: self._store.image(name).numpy(), hashes, self._feature_set, self._cache, progress
        )
        self._info, cohort = info, Cohort(names[:labeled], names[labeled:], (), info)
        access = CohortAccess(cohort, self._store, self._features, self._feature_set.key, run.num_classes)
        compare = arguments["features"] != "builtin"
        atlas = CohortAtlas(access, self._cache, arguments["knn_k"], device, arguments["registration"], compare)
        self._run, self._round, self._numbers = run, record.round, itertools.count()
        self._correct = CohortCorrection(atlas, self._label)

    def __call__(self, volume: Volume, probabilities: np.ndarray) -> np.ndarray:
        """Return class probabilities (C, W, H, D) float32 of a volume on the network's grid, corrected."""
        name = f"/{next(self._numbers)}/"  # no name of a file: a scan of the cohort may be predicted, too
        self._store.guests[name] = torch.from_numpy(volume.image), None
        self._info[name] = VolumeInfo(name, volume.image.shape, name, None, volume.geometry)
        self._features[name] = VolumeFeatures.of(volume.image, self._feature_set)
        try:
            return self._correct(name, torch.from_numpy(probabilities)).numpy()
        finally:
            for known in (self._store.guests, self._info, self._features):
                del known[name]
            self._correct.atlas.forget(name)
            self._cache.drop(name)

    def _label(self, name: str) -> Prediction:
        """Read the label of an unlabeled volume of the cohort."""
        prediction = load_round(self._run.folder, self._round, [name]).of(name)
        if prediction.label.shape != self._info[name].shape:
            raise DatasetError(f"{self._run.dataset.path(name)} has another size than when the run labeled it")
        return prediction


class CohortAndGuests(VolumeStore):
    """The volumes of a cohort, read at each request, and others in memory.

    Args:
        hashes: name → hash of the image of a volume of the cohort.
    """

    def __init__(self, dataset: Dataset, hashes: Mapping[str, str]):
        super().__init__(dataset, (), "none", torch.device("cpu"))
        self.guests: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._hashes = hashes

    def _get(self, name: str) -> tuple[Tensor, Tensor | None]:
        return self.guests[name] if name in self.guests else super()._get(name)

    def _read(self, name: str) -> tuple[Tensor, Tensor | None]:
        image, label = super()._read(name)
        if content_hash(image.numpy()) != self._hashes[name]:
            raise DatasetError(f"{self.dataset.path(name)} changed since the run; --correction off does without it")
        return image, label


def _hashes(run: RunResults, part: str) -> dict[str, str]:
    """Return the hashes by name that args.json states; InputError if it does not."""
    hashes = data.get(part) if isinstance(data := run.content.get("data"), dict) else None
    if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
        raise InputError(f"{run.folder.args} does not state which scans the run was trained on")
    return hashes


def _info(dataset: Dataset, name: str, image_hash: str, label_hash: str | None) -> VolumeInfo:
    grid = dataset.header(name).grid
    return VolumeInfo(name, grid.size, image_hash, label_hash, grid.geometry)


def load_correction(
    trained: TrainedModel, record: RoundRecord | None, wanted: bool | None, device: torch.device
) -> ScanCorrection | None:
    """Return the correction of a network's predictions; None if it is not wanted, or cannot be had or expected to pay.

    Args:
        record: of the network's round, None where that is not known.
        wanted: None leaves it to what the run found out.

    Raises:
        InputError: if it is wanted and cannot be had.
    """
    fused = record is not None and trained.arguments.get("refinement") == "fusion"
    if wanted is None and fused and RunFolder(trained.folder, trained.model).pseudo_labels(record.round).is_file():
        wanted = None if (record.correction_gain or 0) >= 0 else False
    elif wanted is None:
        wanted = False
    if wanted is False:
        return None
    try:
        if not fused:
            raise InputError(f"{trained.checkpoint} is not known to be of a round of a run with --refinement fusion")
        return ScanCorrection(read_run(trained.folder), record, device)
    except InputError as error:
        if wanted:
            raise InputError(f"--correction on: {error}") from None
        if distributed.is_main():
            print(f"warning: predictions are not corrected by the labels of the cohort: {error}")
        return None
