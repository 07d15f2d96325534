"""The demo's dataset folder: synthetic subjects and their lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semisam_o1.core.atomic_io import write_text
from semisam_o1.core.errors import InputError
from semisam_o1.core.seeding import numpy_generator
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Volume, write_volume
from semisam_o1.demo.phantom import SHAPE, make_subject

SHAPE_RANGE = 3  # largest difference of a scan's shape per axis in voxels; too small to make two axes equal
SPACING = (1.5, 1.5, 1.5)  # mm
TEMPLATE_SPREAD = 0.4  # the only labeled scan is a typical one


@dataclass(frozen=True)
class PhantomCohort:
    """A dataset of synthetic subjects; the template is the first of train.txt.

    A subject depends on the seed, on its list and on its position in the list only.

    Attributes:
        train, val, test: number of subjects in each list, at least 1.
        shape: average shape (W, H, D) of the scans.
    """

    seed: int
    train: int = 29
    val: int = 3
    test: int = 6
    shape: tuple[int, int, int] = SHAPE

    def __post_init__(self) -> None:
        if min(sizes := (self.train, self.val, self.test)) < 1:
            raise InputError(f"every list needs a subject or more; train, val and test are {sizes}")

    @property
    def lists(self) -> dict[str, list[str]]:
        """Names of the subjects by list."""
        sizes = {"train": self.train, "val": self.val, "test": self.test}
        return {split: [f"{split}_{index:02d}" for index in range(size)] for split, size in sizes.items()}

    def volumes(self) -> Iterator[Volume]:
        """Yield the scans in the order of the lists."""
        for part, names in enumerate(self.lists.values()):
            for index, name in enumerate(names):
                generator = numpy_generator(self.seed, part, index)
                change = generator.integers(-SHAPE_RANGE, SHAPE_RANGE, 3, endpoint=True)
                shape = np.maximum(np.asarray(self.shape) + change, 1)
                spread = TEMPLATE_SPREAD if (part, index) == (0, 0) else 1.0
                image, label = make_subject(shape.tolist(), generator, spread)
                origin = tuple((-(shape - 1) / 2 * SPACING).tolist())
                yield Volume(name, image, label, Geometry(SPACING, origin, known=True))

    def write(self, root: Path) -> None:
        """Write the dataset folder; files of the same names are replaced."""
        for volume in self.volumes():
            path, source = Dataset(root).path(volume.name), f"synthetic, seed {self.seed}"
            write_volume(path, volume.image, volume.label, volume.geometry, source)
        for split, names in self.lists.items():  # last, so that a folder with lists has all scans
            write_text(root / f"{split}.txt", "".join(f"{name}\n" for name in names))

    def is_in(self, root: Path) -> bool:
        """Return whether the lists and files of a folder are those that ``write`` would write there."""
        dataset = Dataset(root)
        try:
            if any(dataset.names(f"{split}.txt") != names for split, names in self.lists.items()):
                return False
            pairs = ((dataset.load(volume.name), volume) for volume in self.volumes())
            return all(
                np.array_equal(found.image, volume.image)
                and np.array_equal(found.label, volume.label)
                and found.geometry == volume.geometry
                for found, volume in pairs
            )
        except InputError:  # a list or a file is missing or cannot be read
            return False
