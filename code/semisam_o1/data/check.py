"""The preflight: read a whole dataset before anything is computed and list all of its faults at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from os import cpu_count

import numpy as np

from ..errors import InputError
from ..progress import progress
from .volumes import Dataset, content_hash


@dataclass(frozen=True)
class VolumeInfo:
    """What the preflight found out about one volume."""

    name: str
    shape: tuple[int, int, int]
    hash: str  # of the image's values
    label_hash: str | None  # of the label's values, None where there is no label


@dataclass(frozen=True)
class Cohort:
    """The volumes of a training run: the labelled ones first, then the unlabelled, and those that validate."""

    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    validation: tuple[str, ...]
    info: dict[str, VolumeInfo]

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


@dataclass(frozen=True)
class _Report:
    info: VolumeInfo | None
    faults: tuple[str, ...]
    classes: frozenset[int] = frozenset()


def check_training(
    dataset: Dataset,
    labeled_num: int,
    num_classes: int,
    score_unlabeled: bool = True,
) -> Cohort:
    """Check the lists train.txt and val.txt and every volume they name.

    Args:
        labeled_num: the first names of train.txt are labelled.
        score_unlabeled: whether labels of unlabelled volumes will be read, and have to be right.

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
            "unlabelled volume is left"
        )
    labeled = train[:labeled_num]
    needed = {*labeled, *validation}
    names = [*train, *validation]
    reports = check_volumes(dataset, names, num_classes, needed, set(names) if score_unlabeled else needed)
    for report in reports:
        faults += report.faults
    seen = frozenset().union(*(report.classes for report in reports[: len(labeled)]))
    missing = [str(c) for c in range(1, num_classes) if c not in seen]
    if labeled and missing and all(report.info for report in reports[: len(labeled)]):
        files = ", ".join(str(dataset.path(name)) for name in labeled)
        what = "no foreground at all" if len(missing) == num_classes - 1 else f"nothing of class {', '.join(missing)}"
        faults.append(f"{files}: the template's label shows {what}; label it, or lower --num_classes")
    _raise(faults)
    info = {report.info.name: report.info for report in reports if report.info}
    return Cohort(tuple(labeled), tuple(train[labeled_num:]), tuple(validation), info)


def check_testing(
    dataset: Dataset,
    list_name: str,
    num_classes: int,
) -> list[str]:
    """Check a list of volumes that must all be labelled and return its names.

    Raises:
        InputError: with every fault that was found, a line each.
    """
    faults: list[str] = []
    names = _list(dataset, list_name, faults)
    for report in check_volumes(dataset, names, num_classes, set(names), set(names)):
        faults += report.faults
    _raise(faults)
    return names


def check_volumes(
    dataset: Dataset,
    names: Sequence[str],
    num_classes: int,
    must_have_label: set[str],
    read_label: set[str],
) -> list[_Report]:
    """Read and check volumes, in parallel where there are many; other labels than ``read_label`` do not matter."""
    check = partial(
        _check_volume, dataset, num_classes=num_classes, must_have_label=must_have_label, read_label=read_label
    )
    workers = min(cpu_count() or 1, 8)
    if workers == 1 or len(names) < 8:
        return list(progress(map(check, names), "checking", len(names)))
    # Not forked: the parent may hold threads and a CUDA context.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(progress(pool.map(check, names, chunksize=4), "checking", len(names)))


def _check_volume(
    dataset: Dataset, name: str, num_classes: int, must_have_label: set[str], read_label: set[str]
) -> _Report:
    path = dataset.path(name)
    try:
        volume = dataset.load(name)
    except InputError as error:
        return _Report(None, (str(error),))
    faults = []
    finite = np.isfinite(volume.image)
    if not finite.all():
        faults.append(f"{path}: the image holds {int((~finite).sum())} values that are NaN or infinite; replace them")
    elif volume.image.min() == volume.image.max():
        faults.append(f"{path}: every voxel of the image is {volume.image.flat[0]:g}; export the scan again")
    classes: frozenset[int] = frozenset()
    if volume.label is None:
        if name in must_have_label:
            faults.append(f"{path}: the volume needs a label here and has none; add the dataset 'label'")
    elif name in read_label:
        classes = frozenset(np.unique(volume.label).tolist())
        if max(classes) >= num_classes:
            faults.append(
                f"{path}: the label holds the value {max(classes)}, --num_classes {num_classes} allows 0 to "
                f"{num_classes - 1}; raise it, or merge all foreground with --binary_label"
            )
    label_hash = None if volume.label is None else content_hash(volume.label)
    info = VolumeInfo(name, volume.image.shape, content_hash(volume.image), label_hash)
    return _Report(info, tuple(faults), classes)


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
