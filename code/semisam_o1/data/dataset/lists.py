"""The lists of a dataset: drawn by chance, read from files, written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from semisam_o1.core.atomic_io import write_text
from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Dataset

LISTS = ("train.txt", "val.txt", "test.txt")
FRACTIONS = (0.7, 0.1, 0.2)  # of all scans, in the order of LISTS


def split(
    names: Iterable[str],
    labeled: Collection[str],
    template: str | None,
    fractions: Sequence[float],
    seed: int,
) -> dict[str, list[str]]:
    """Draw train, val and test: the template first in train, no scan without a label in val or test.

    Args:
        names: all scans; their order does not matter.
        labeled: those with a label.
        fractions: of all scans for train, val and test; they sum to 1.

    Returns:
        The names of each of LISTS; in train the labeled ones come first.

    Raises:
        InputError: if the fractions are not parts of a whole.
    """
    if min(fractions) < 0 or fractions[0] == 0 or abs(sum(fractions) - 1) > 1e-3:
        given = " ".join(f"{part:g}" for part in fractions)
        raise InputError(f"--split {given} must be three parts of 1, the first above 0")
    names = sorted(names)
    free = [name for name in names if name in labeled and name != template]
    wanted = [max(1, round(part * len(names))) if part > 0 else 0 for part in fractions[1:]]
    # Something must be left to spread the template's label over.
    limit = len(free) if len(free) < len(names) - 1 else max(len(free) - 1, 0)
    if sum(wanted) > limit:  # one to choose the best weights by comes before any to test on
        val_count = min(limit, max(int(wanted[0] > 0), limit * wanted[0] // sum(wanted)))
        wanted = [val_count, min(wanted[1], limit - val_count)]
    val_count, test_count = wanted
    drawn = np.random.default_rng(seed).permutation(free).tolist()
    held_out = set(drawn[: val_count + test_count])
    train = [name for name in names if name not in held_out]
    train.sort(key=lambda name: (name != template, name not in labeled))
    return dict(zip(LISTS, (train, sorted(drawn[:val_count]), sorted(held_out - set(drawn[:val_count]))), strict=True))


def read_lists(
    list_files: Mapping[str, Path], names: Collection[str], labeled: Collection[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the names of each given list, and what is wrong with them."""
    lists = {}
    for key, path in list_files.items():
        if not path.is_file():
            raise InputError(f"{path} is missing; --{key.removesuffix('.txt')} takes a file with one name per line")
        lists[key] = Dataset(path.parent).names(path.name)
    faults, seen = [], {}
    for key, listed in lists.items():
        path = list_files[key]
        unknown = [name for name in listed if name not in names]
        if unknown:
            faults.append(f"{path} names {', '.join(unknown)}, of which there is no image; take the names out")
        if key != "train.txt":
            bare = [name for name in listed if name in names and name not in labeled]
            if bare:
                faults.append(f"{path} names {', '.join(bare)}, which have no label to score with; take them out")
        for name in listed:
            if name in seen:
                faults.append(f"{seen[name]} and {path} both name {name}; keep it in one of them")
            seen.setdefault(name, path)
    return lists, faults


def list_conflicts(destination: Path, lists: Mapping[str, list[str]]) -> list[str]:
    """Return a sentence for every list of the destination that says something else."""
    faults = []
    for name, listed in lists.items():
        if (destination / name).exists():
            try:
                same = Dataset(destination).names(name) == listed
            except InputError:
                same = False
            if not same:
                faults.append(f"{destination / name} exists and names other scans; --overwrite replaces it")
    return faults


def write_lists(destination: Path, lists: Mapping[str, list[str]]) -> None:
    """Write the lists, each whole or not at all; one without names is not there afterwards."""
    for name, listed in lists.items():
        path = destination / name
        if listed:
            write_text(path, "".join(f"{scan}\n" for scan in listed))
        else:
            path.unlink(missing_ok=True)
