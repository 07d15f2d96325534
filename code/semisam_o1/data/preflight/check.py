"""The preflight: read a whole dataset before anything is computed and list all of its faults at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semisam_o1.core.errors import InputError, listed
from semisam_o1.core.progress import ProgressFn, progress
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preflight.inspection import Need, Report, VolumeInfo
from semisam_o1.data.preflight.readers import inspect_all

MAX_READERS = 8
ODD_SPACING = 3.0  # times another scan's, from which on the user should know
TURNED = 0.9  # cosine between the same axis of two scans, below which they lie differently


@dataclass(frozen=True)
class Cohort:
    """The volumes of a training run: the labeled ones first, then the unlabeled, and those that validate.

    Attributes:
        warnings: what is legal but odd, a sentence each.
    """

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
        """What a run depends on, by list and name: images, and the labels that it trains or validates on."""
        return {
            "train.txt": {name: self.info[name].hash for name in self.train},
            "labels": {name: self.info[name].label_hash for name in self.labeled + self.validation},
            "val.txt": {name: self.info[name].hash for name in self.validation},
        }

    @property
    def nbytes(self) -> int:
        """Bytes that all images (float32) and labels (uint8) take when decoded."""
        return sum(5 * int(np.prod(info.shape)) for info in self.info.values())


def check_training(
    dataset: Dataset,
    labeled_num: int,
    num_classes: int,
    score_unlabeled: bool = True,
    progress: ProgressFn = progress,
) -> Cohort:
    """Check the lists train.txt and val.txt and every volume they name.

    Args:
        labeled_num: the first names of train.txt are labeled.
        score_unlabeled: whether labels of unlabeled volumes will be read, and have to be right.
        progress: iterates over the reports as they come in.

    Raises:
        InputError: with every fault that was found, a line each.
    """
    faults: list[str] = []
    train = _list(dataset, "train.txt", faults)
    validation = _list(dataset, "val.txt", faults)
    both = sorted(set(train) & set(validation))
    if both:
        faults.append(
            f"{dataset.root / 'val.txt'} names {', '.join(both)}, which train.txt trains on; take them out of one"
        )
    if train and len(train) <= labeled_num:
        faults.append(
            f"{dataset.root / 'train.txt'} names {len(train)} volumes and --labeled_num is {labeled_num}: no "
            "unlabeled volume is left"
        )
    labeled = train[:labeled_num]
    needed = {*labeled, *validation}
    names = list(dict.fromkeys([*train, *validation]))
    needs = [(name, Need(num_classes, name in needed, score_unlabeled or name in needed)) for name in names]
    reports = dict(zip(names, _inspect(dataset, needs, progress), strict=True))
    for report in reports.values():
        faults += report.faults
    templates = [reports[name] for name in labeled]
    seen = frozenset().union(*(report.classes for report in templates))
    missing = [str(c) for c in range(1, num_classes) if c not in seen]
    if labeled and missing and all(report.info and report.info.label_hash for report in templates):
        files = ", ".join(str(dataset.path(name)) for name in labeled)
        what = "no foreground at all" if len(missing) == num_classes - 1 else f"nothing of class {', '.join(missing)}"
        faults.append(f"{files}: the template's label shows {what}; label it, or lower --num_classes")
    _raise(faults)
    info = {name: report.info for name, report in reports.items()}
    warnings = (
        *_spacing_warnings([info[name] for name in names]),
        *_orientation_warnings([info[name] for name in names]),
        *_duplicate_warnings([info[name] for name in names]),
        *_overlap_warnings(dataset, {"train.txt": train, "val.txt": validation}),
    )
    return Cohort(tuple(labeled), tuple(train[labeled_num:]), tuple(validation), info, warnings)


def check_testing(
    dataset: Dataset,
    list_name: str,
    num_classes: int,
) -> list[str]:
    """Check a list of volumes that must all be labeled and return its names.

    Raises:
        InputError: with every fault that was found, a line each.
    """
    faults: list[str] = []
    names = _list(dataset, list_name, faults)
    for report in _inspect(dataset, [(name, Need(num_classes, True, True)) for name in names]):
        faults += report.faults
    _raise(faults)
    return names


def _inspect(dataset: Dataset, needs: Sequence[tuple[str, Need]], progress: ProgressFn = progress) -> list[Report]:
    if not needs:
        return []
    reports = inspect_all(dataset, needs, min(_cores(), MAX_READERS, len(needs)))
    try:
        return list(progress(reports, "checking", len(needs)))
    finally:
        reports.close()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _spacing_warnings(volumes: Sequence[VolumeInfo]) -> list[str]:
    known = [volume for volume in volumes if volume.geometry.known]
    warnings = []
    for axis, letter in enumerate("xyz"):
        by_size = sorted(known, key=lambda volume: volume.geometry.spacing[axis])
        if by_size and by_size[-1].geometry.spacing[axis] >= ODD_SPACING * by_size[0].geometry.spacing[axis]:
            ends = " to ".join(f"{v.geometry.spacing[axis]:g} ({v.name})" for v in (by_size[0], by_size[-1]))
            warnings.append(f"the spacing along {letter} varies from {ends} mm; resampling to one spacing may help")
    return warnings


def _orientation_warnings(volumes: Sequence[VolumeInfo]) -> list[str]:
    """Compare with the first volume, the template."""
    if not volumes or not volumes[0].geometry.known:
        return []
    axes = np.reshape(volumes[0].geometry.direction, (3, 3))
    turned = [
        volume.name
        for volume in volumes[1:]
        if volume.geometry.known and (np.sum(axes * np.reshape(volume.geometry.direction, (3, 3)), 0) < TURNED).any()
    ]
    if not turned:
        return []
    return [f"{_count(turned)} lie in another orientation than the template {volumes[0].name}: {listed(turned)}"]


def _duplicate_warnings(volumes: Sequence[VolumeInfo]) -> list[str]:
    by_hash: dict[str, list[str]] = {}
    for volume in volumes:
        by_hash.setdefault(volume.hash, []).append(volume.name)
    return [f"{' and '.join(names)} hold the same image" for names in by_hash.values() if len(names) > 1]


def _overlap_warnings(dataset: Dataset, lists: dict[str, list[str]]) -> list[str]:
    try:
        tested = set(dataset.names("test.txt"))
    except InputError:  # testing will say so
        return []
    overlaps = {key: [name for name in names if name in tested] for key, names in lists.items()}
    return [
        f"{dataset.root / 'test.txt'} names {_count(names)} of {key}, so test figures will not be those of unseen "
        f"scans: {listed(names)}"
        for key, names in overlaps.items()
        if names
    ]


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} volume{'s' if len(names) > 1 else ''}"


def _list(dataset: Dataset, list_name: str, faults: list[str]) -> list[str]:
    try:
        return dataset.names(list_name)
    except InputError as error:
        faults.append(str(error))
        return []


def _raise(faults: list[str]) -> None:
    if len(faults) == 1:
        raise InputError(faults[0])
    if faults:
        raise InputError(f"{len(faults)} faults in the dataset:\n" + "\n".join(f"  {fault}" for fault in faults))
