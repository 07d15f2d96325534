"""Datasets on disk: one HDF5 file per volume and the lists that name them.

``ROOT/data/NAME.h5`` holds 'image' (W, H, D) and, where one exists, 'label' (W, H, D); axes are
(x, y, z). ``ROOT/train.txt``, ``val.txt`` and ``test.txt`` hold one name per line.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from semisam_o1.core.errors import DatasetError, InputError, listed
from semisam_o1.data.dataset.geometry import Geometry, Grid
from semisam_o1.data.dataset.hdf5 import find_array, open_hdf5, read_array, read_grid, write_geometry, write_hdf5

MAX_LIST_BYTES = 2**24
# The name of a file in a folder, on any system: no path, no drive of Windows, no control character.
PLAIN_NAME = re.compile(r"(?!\.\.?$|.:)[^/\\\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class VolumeHeader:
    """A volume without its voxels."""

    name: str
    grid: Grid
    original: Grid | None = None  # grid of the file that the scan came from, where it is known
    source: str | None = None  # path of that file, where it is known
    labeled: bool = False  # whether it has a label
    mask: str | None = None  # path of the file of that label, where it is known


@dataclass(frozen=True)
class Volume:
    """One scan."""

    name: str
    image: np.ndarray  # float32 (W, H, D)
    label: np.ndarray | None = None  # uint8 (W, H, D)
    geometry: Geometry = field(default_factory=Geometry)  # of image and label
    original: Grid | None = None  # grid of the file that the scan came from, where it is known
    source: str | None = None  # path of that file, where it is known
    mask: str | None = None  # path of the file of the label, where it is known

    @property
    def grid(self) -> Grid:
        return Grid(self.image.shape, self.geometry)


@dataclass(frozen=True)
class Dataset:
    """A dataset folder and how its files are read."""

    root: Path  # folder with data/ and the lists
    image_key: str = "image"  # name of the HDF5 dataset that holds the image
    binary_label: bool = False  # whether all labels above 0 are merged into class 1

    def path(self, name: str) -> Path:
        return self.root / "data" / f"{name}.h5"

    def names(self, list_name: str, optional: bool = False) -> list[str]:
        """Return the volume names of ``ROOT/list_name``, in order.

        Args:
            optional: whether the list may be missing or empty.

        Raises:
            DatasetError: if the list is missing or empty and not optional, repeats a name, or names something outside
                of the folder.
        """
        path, one_per_line = self.root / list_name, "write one volume name per line into"
        try:
            if path.exists() and not path.is_file():
                raise DatasetError(f"{path} is not a file; {one_per_line} a file of that name")
            if path.stat().st_size > MAX_LIST_BYTES:
                raise DatasetError(f"{path} is too large for a list of names; {one_per_line} it")
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            if optional:
                return []
            remedy = f"{one_per_line} it, or name a dataset folder (prepare_data.py makes one)"
            raise DatasetError(f"{path} is missing; {remedy}") from None
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path} cannot be read as text ({error}); save it as UTF-8") from None
        names = [name for line in text.splitlines() if (name := line.split(",")[0].strip())]
        if not names and not optional:
            raise DatasetError(f"{path} names no volume; {one_per_line} it")
        if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
            raise DatasetError(f"{path} names {listed(repeated, 20)} more than once; keep one line of each")
        if outside := [name for name in names if not PLAIN_NAME.fullmatch(name)]:
            found = listed(name if name.isprintable() else ascii(name) for name in outside)
            raise DatasetError(f"{path} names {found}; a line must be the plain name of a file in {self.root / 'data'}")
        return names

    def load(self, name: str) -> Volume:
        """Read one volume.

        Raises:
            DatasetError: if the file is missing or damaged, lacks the image, or holds what cannot be used.
        """
        path = self.path(name)
        with self._open(name) as file:
            image = read_array(file, self.image_key, path)
            header = self._header(name, file)
            label = self._label(file, header) if header.labeled else None
        image = np.ascontiguousarray(image, dtype=np.float32)
        return Volume(name, image, label, header.grid.geometry, header.original, header.source, header.mask)

    def header(self, name: str) -> VolumeHeader:
        """Read the grid and the source of one volume without decoding its arrays; raises as ``load`` does."""
        with self._open(name) as file:
            return self._header(name, file)

    def label(self, name: str) -> np.ndarray | None:
        """Read the label (W, H, D) uint8 of one volume alone, None if it has none; raises DatasetError as ``load``."""
        with self._open(name) as file:
            header = self._header(name, file)
            return self._label(file, header) if header.labeled else None

    def _label(self, file: h5py.File, header: VolumeHeader) -> np.ndarray:
        path = self.path(header.name)
        label = read_array(file, "label", path)
        if label.shape != header.grid.size:
            shapes = f"image has shape {header.grid.size} and label {label.shape}"
            raise DatasetError(f"{path}: {shapes}; they must be the same")
        label = as_label(label, path)
        return (label > 0).astype(np.uint8) if self.binary_label else label

    def _header(self, name: str, file: h5py.File) -> VolumeHeader:
        path, attributes = self.path(name), file.attrs
        grid = read_grid(file, path, find_array(file, self.image_key, path).shape)
        size, files = attributes.get("original_size"), (attributes.get("source"), attributes.get("mask"))
        original = None if size is None else read_grid(file, path, size, "original_")
        source, mask = (value if isinstance(value, str) else None for value in files)
        return VolumeHeader(name, grid, original, source, "label" in [*file], mask)

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[h5py.File]:
        """Open the file of a volume, which must not be a link that leaves the dataset folder.

        Raises:
            DatasetError: if it cannot be opened, or the body raises InputError.
        """
        path = self.path(name)
        if not os.path.isfile(path):  # false, too, for a name that no file can have
            raise DatasetError(f"{path} is missing; put it there or take {name} out of the lists")
        file = path.resolve()
        # The folder itself may be a link: that is the choice of its owner, not of the author of its content.
        if not any(file.is_relative_to(folder.resolve()) for folder in (self.root, path.parent)):
            raise DatasetError(f"{path} is a link to {file}, outside of the dataset folder; copy the file there")
        try:
            with open_hdf5(path) as opened:
                yield opened
        except InputError as error:
            raise DatasetError(str(error)) from None


def as_label(label: np.ndarray, path: Path) -> np.ndarray:
    """Return a label map as uint8.

    Raises:
        DatasetError: if a value is not a whole number from 0 to 255.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = label.astype(np.uint8)
    if not np.array_equal(rounded, label):
        raise DatasetError(f"{path}: label values must be whole numbers from 0 to 255")
    return np.ascontiguousarray(rounded)


def write_volume(path: Path, volume: Volume) -> None:
    """Write one volume as HDF5, completely or not at all.

    The image is stored as it is and the label as uint8; geometry, original grid and the paths of the files of image and
    label as attributes.
    """
    with write_hdf5(path) as file:
        # The checksum reveals damaged files.
        stored = {"compression": "gzip", "compression_opts": 4, "fletcher32": True}
        file.create_dataset("image", data=volume.image, **stored)
        if volume.label is not None:
            file.create_dataset("label", data=volume.label.astype(np.uint8), **stored)
        write_geometry(file, volume.geometry)
        if volume.original is not None:
            file.attrs["original_size"] = volume.original.size
            write_geometry(file, volume.original.geometry, "original_")
        if volume.source is not None:
            file.attrs["source"] = volume.source
        if volume.mask is not None:
            file.attrs["mask"] = volume.mask


def content_hash(array: np.ndarray) -> str:
    """Return a short hash of an array's values, shape and type."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
