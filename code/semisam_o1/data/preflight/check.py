"""Preflight: check a whole dataset before anything is computed and list all of its faults at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from semisam_o1.core.errors import DatasetError, listed, raise_faults
from semisam_o1.core.memory import available_cores
from semisam_o1.core.terminal import ProgressFn, progress
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preflight.inspection import Need, Report, VolumeInfo, inspect_all

MAX_READERS = 8
SPACING_RATIO = 3.0  # between two volumes along the same axis, from which on there is a warning
MIN_AXIS_COSINE = 0.9  # between the same axis of two volumes, below which their orientations differ


@dataclass(frozen=True)
class Cohort:
    """The volumes of a training run by name; each warning is one sentence about an oddity that is no fault."""

    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    validation: tuple[str, ...]
    info: dict[str, VolumeInfo]
    warnings: tuple[str, ...] = ()

    @property
    def train(self) -> tuple[str, ...]:
        return self.labeled + self.unlabeled

    @property
    def fingerprint(self) -> dict[str, dict[str, str | None]]:
        """Hashes of the images and of the labels for training and validation, by list and name."""
        return {
            "train.txt": {name: self.info[name].hash for name in self.train},
            "labels": {name: self.info[name].label_hash for name in self.labeled + self.validation},
            "val.txt": {name: self.info[name].hash for name in self.validation},
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all decoded images (float32) and labels (uint8)."""
        return sum(5 * int(np.prod(info.shape)) for info in self.info.values())


def check_training(
    dataset: Dataset, labeled_num: int, num_classes: int, score_unlabeled: bool = True, progress: ProgressFn = progress
) -> Cohort:
    """Check the lists train.txt and val.txt and every volume they name; val.txt may be missing or empty.

    Args:
        labeled_num: number of labeled volumes, the first ones in train.txt.
        num_classes: background included.
        score_unlabeled: whether labels of unlabeled volumes are read and must be valid.
        progress: iterates over the reports.

    Raises:
        DatasetError: listing every fault.
    """
    faults: list[str] = []
    train = _names(dataset, "train.txt", faults)
    validation = _names(dataset, "val.txt", faults, optional=True)
    if both := ", ".join(sorted(set(train) & set(validation))):
        faults.append(f"{dataset.root / 'val.txt'} names {both}, which train.txt trains on; take them out of one")
    if train and len(train) <= labeled_num:
        counts = f"names {len(train)} volumes, of which the first {labeled_num} count as labeled"
        faults.append(f"{dataset.root / 'train.txt'} {counts}: no unlabeled volume is left")
    labeled = train[:labeled_num]
    names, required = list(dict.fromkeys([*train, *validation])), {*labeled, *validation}
    needs = {name: Need(num_classes, name in required, score_unlabeled or name in required) for name in names}
    reports = _inspect(dataset, needs, faults, progress)
    faults += _template_faults(dataset, {name: reports[name] for name in labeled}, num_classes)
    raise_faults(faults, "faults in the dataset", DatasetError)
    info = {name: report.info for name, report in reports.items()}
    warnings = (*_volume_warnings(info), *_overlap_warnings(dataset, {"train.txt": train, "val.txt": validation}))
    return Cohort(tuple(labeled), tuple(train[labeled_num:]), tuple(validation), info, warnings)


def check_testing(dataset: Dataset, list_name: str, num_classes: int) -> list[str]:
    """Check a list of volumes that must all be labeled and return its names.

    Raises:
        DatasetError: listing every fault.
    """
    faults: list[str] = []
    names = _names(dataset, list_name, faults)
    _inspect(dataset, dict.fromkeys(names, Need(num_classes, label=True, read_label=True)), faults, progress)
    raise_faults(faults, "faults in the dataset", DatasetError)
    return names


def _names(dataset: Dataset, list_name: str, faults: list[str], optional: bool = False) -> list[str]:
    """Return the names in a list; what is wrong with the list goes to ``faults``."""
    try:
        return dataset.names(list_name, optional)
    except DatasetError as error:
        faults.append(str(error))
    return []


def _inspect(dataset: Dataset, needs: Mapping[str, Need], faults: list[str], progress: ProgressFn) -> dict[str, Report]:
    """Return the report of every volume; its faults also go to ``faults``."""
    if not needs:
        return {}
    cores = available_cores()
    with contextlib.closing(inspect_all(dataset, list(needs.items()), min(cores, MAX_READERS))) as reports:
        found = dict(zip(needs, progress(reports, "checking", len(needs)), strict=True))
    faults += [fault for report in found.values() for fault in report.faults]
    return found


def _template_faults(dataset: Dataset, templates: Mapping[str, Report], num_classes: int) -> Iterator[str]:
    if not templates or not all(report.info and report.info.label_hash for report in templates.values()):
        return  # reported already
    present = frozenset().union(*(report.classes for report in templates.values()))
    if missing := [str(c) for c in range(1, num_classes) if c not in present]:
        files = ", ".join(str(dataset.path(name)) for name in templates)
        what = "no foreground at all" if len(missing) == num_classes - 1 else f"nothing of class {', '.join(missing)}"
        yield f"{files}: the template's label shows {what}; label it, or lower the number of classes"


def _volume_warnings(info: Mapping[str, VolumeInfo]) -> Iterator[str]:
    known = {name: volume.geometry for name, volume in info.items() if volume.geometry.known}
    for axis, letter in enumerate("xyz"):
        spacings = sorted((geometry.spacing[axis], name) for name, geometry in known.items())
        if spacings and spacings[-1][0] >= SPACING_RATIO * spacings[0][0]:
            ends = " to ".join(f"{spacing:g} ({name})" for spacing, name in (spacings[0], spacings[-1]))
            yield f"the spacing along {letter} varies from {ends} mm; resampling to one spacing may help"
    if turned := turned_volumes(info):
        what = f"{_count(turned)} in another orientation than the template {next(iter(info))}: {listed(turned)}"
        yield f"{what}; prepare the scans anew, in one orientation"
    for image in {volume.hash: None for volume in info.values()}:
        if len(names := [name for name, volume in info.items() if volume.hash == image]) > 1:
            yield f"{' and '.join(names)} hold the same image"


def turned_volumes(info: Mapping[str, VolumeInfo]) -> list[str]:
    """Return the volumes whose header states another orientation than that of the first one, the template."""
    axes = {n: np.reshape(v.geometry.direction, (3, 3)) for n, v in info.items() if v.geometry.known}
    template = axes.get(next(iter(info)))
    if template is None:
        return []
    cosines = {name: np.sum(template * own, axis=0) for name, own in axes.items()}
    return [name for name, cosine in cosines.items() if (cosine < MIN_AXIS_COSINE).any()]


def _overlap_warnings(dataset: Dataset, lists: Mapping[str, Sequence[str]]) -> Iterator[str]:
    tested = set(_names(dataset, "test.txt", [], optional=True))  # testing reports what is wrong with the list
    for key, names in lists.items():
        if overlap := [name for name in names if name in tested]:
            what = f"{dataset.root / 'test.txt'} names {_count(overlap)} of {key}"
            yield f"{what}, so test figures will not be those of unseen scans: {listed(overlap)}"


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} volume{'s' if len(names) > 1 else ''}"
