"""The lists of a dataset (train, val, test): drawn at random, read from files or taken from a public data set."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from semisam_o1.core.atomic_io import write_text
from semisam_o1.core.errors import InputError
from semisam_o1.core.flags import AT_LEAST_0, option
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preparation.sources import FoundScans

LISTS = ("train.txt", "val.txt", "test.txt")
FRACTIONS = (0.7, 0.1, 0.2)  # of all scans, in the order of LISTS


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Flags that choose the lists of a dataset. Without a template, it is the first name of the given train list."""

    template: str | None = option(None, "the scan whose label is propagated: first in train.txt", metavar="NAME")
    split: Sequence[float] | None = option(
        None,
        "fractions of all scans, drawn at random (default: {} {} {})".format(*FRACTIONS),
        type=float,
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
    )
    train: Path | None = option(None, "names of train.txt, instead of --split", metavar="FILE")
    val: Path | None = option(None, "names of val.txt, instead of --split", metavar="FILE")
    test: Path | None = option(None, "names of test.txt, instead of --split", metavar="FILE")
    seed: int = option(1337, "random seed of the split", AT_LEAST_0)

    @property
    def files(self) -> dict[str, Path]:
        """Given files of names, by the list that they become."""
        return {name: path for name, path in zip(LISTS, (self.train, self.val, self.test), strict=True) if path}

    def faults(self) -> list[str]:
        """Return what is wrong with the flags."""
        faults = []
        if self.files and self.split is not None:
            faults.append("--split draws the lists that --train, --val and --test give; use one of the two")
        if self.files and self.train is None:
            faults.append("--val and --test need --train, the list of the scans to train on")
        if self.split and (min(self.split) < 0 or self.split[0] == 0 or abs(sum(self.split) - 1) > 1e-3):
            given = " ".join(f"{fraction:g}" for fraction in self.split)
            faults.append(f"--split {given} must be three fractions that sum to 1, the first above 0")
        return faults


@dataclass(frozen=True)
class DatasetLists:
    """The lists that a dataset is to have."""

    names: dict[str, list[str]]  # of the scans of each list; in train.txt the template comes first
    keep: bool  # whether the destination has these lists, or its own ones that are not to be replaced
    missing: dict[str, list[str]] = field(default_factory=dict)  # names of each standard list without a scan
    faults: list[str] = field(default_factory=list)  # sentences

    def write(self, destination: Path) -> None:
        """Write the lists unless they are to be kept; one without names does not exist afterwards."""
        for name, listed in () if self.keep else self.names.items():
            if listed:
                write_text(destination / name, "".join(f"{scan}\n" for scan in listed))
            else:
                (destination / name).unlink(missing_ok=True)


def standard_lists(found: FoundScans, destination: Path, standard: Path, overwrite: bool) -> DatasetLists:
    """Return the standard lists of a public data set, without the names that no scan has.

    Lists that the destination has are kept. With ``overwrite`` they are replaced, except in the folder ``standard``.
    """
    existing = [name for name in LISTS if (destination / name).exists()]
    keep = bool(existing) and (destination.resolve() == standard.resolve() or not overwrite)
    dataset = Dataset(destination if keep else standard)
    available = {*found.scans, *(path.stem for path in (destination / "data").glob("*.h5"))}
    names, missing = {}, {}
    for name in existing if keep else LISTS:
        listed = dataset.names(name)
        names[name] = [scan for scan in listed if scan in available]
        if absent := [scan for scan in listed if scan not in available]:
            missing[name] = absent
    return DatasetLists(names, keep, missing)


def chosen_lists(found: FoundScans, options: ListOptions, destination: Path, overwrite: bool) -> DatasetLists:
    """Return the lists that were given as files, or else drawn at random."""
    template, faults = options.template, []
    if options.files:
        given = _read_lists(options.files, found, faults)
        if template is None and found.labeled:
            template = given["train.txt"][0]
        names = {name: sorted(given.get(name, []), key=lambda scan: scan != template) for name in LISTS}
        if template is not None and template not in names["train.txt"]:
            faults.append(f"{options.train} does not name the template {template}; add it")
    else:
        names = split(found.scans, found.labeled, template, options.split or FRACTIONS, options.seed)
    if template is not None and template not in found.labeled:
        what = "label of that name" if template in found.scans else "such image"
        faults.append(f"the template {template} cannot be used: there is no {what} in {found.where}")
    different = [destination / name for name, listed in names.items() if not _is_current(destination / name, listed)]
    conflicts = [path for path in different if path.exists() and not overwrite]
    faults += [f"{path} exists and names other scans; overwrite it, or choose another folder" for path in conflicts]
    return DatasetLists(names, keep=not different, faults=faults)


def split(
    names: Iterable[str], labeled: Collection[str], template: str | None, fractions: Sequence[float], seed: int
) -> dict[str, list[str]]:
    """Draw train, val and test: the template first in train, no scan without a label in val or test.

    Args:
        names: all scans; their order does not matter.
        fractions: of all scans for train, val and test; they sum to 1.
    """
    names = sorted(names)
    free = [name for name in names if name in labeled and name != template]
    wanted = [max(1, round(part * len(names))) if part > 0 else 0 for part in fractions[1:]]
    # Something must be left to propagate the template's label to.
    limit = len(free) if len(free) < len(names) - 1 else max(len(free) - 1, 0)
    if sum(wanted) > limit:  # one to choose the best weights by comes before any to test on
        val_count = min(limit, max(int(wanted[0] > 0), limit * wanted[0] // sum(wanted)))
        wanted = [val_count, min(wanted[1], limit - val_count)]
    drawn = np.random.default_rng(seed).permutation(free).tolist()
    val, test = drawn[: wanted[0]], drawn[wanted[0] : sum(wanted)]
    train = sorted({*names} - {*val, *test}, key=lambda name: (name != template, name not in labeled, name))
    return dict(zip(LISTS, (train, sorted(val), sorted(test)), strict=True))


def _read_lists(files: Mapping[str, Path], found: FoundScans, faults: list[str]) -> dict[str, list[str]]:
    """Return the names in given files; what is wrong with them goes to ``faults``."""
    lists, first_file = {}, {}
    for key, path in files.items():
        listed = lists[key] = Dataset(path.parent).names(path.name)
        if unknown := [name for name in listed if name not in found.scans]:
            faults.append(f"{path} names {', '.join(unknown)}, of which there is no image; take the names out")
        unlabeled = [name for name in listed if name in found.scans and name not in found.labeled]
        if unlabeled and key != "train.txt":
            faults.append(f"{path} names {', '.join(unlabeled)}, which have no label to score with; take them out")
        for name in listed:
            if first_file.setdefault(name, path) is not path:
                faults.append(f"{first_file[name]} and {path} both name {name}; keep it in one of them")
    return lists


def _is_current(path: Path, names: Sequence[str]) -> bool:
    """Return whether a list has these names already; one without names does not exist."""
    with contextlib.suppress(InputError):
        return (Dataset(path.parent).names(path.name) if path.exists() else []) == names
    return False
