"""Datasets on disk: one HDF5 file per volume and the lists that name them.

``ROOT/data/NAME.h5`` holds 'image' (W, H, D) and, where one exists, 'label' (W, H, D); axes are
(x, y, z). ``ROOT/train.txt``, ``val.txt`` and ``test.txt`` hold one name per line.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from semisam_o1.core.errors import DatasetError, InputError, listed
from semisam_o1.data.dataset.grids import Geometry, Grid, read_geometry, read_original, write_geometry
from semisam_o1.data.dataset.hdf5 import find, find_array, open_hdf5, read_array, write_hdf5

MAX_LIST_BYTES = 2**24


@dataclass(frozen=True)
class VolumeHeader:
    """Grid and origin of a volume, without its voxels.

    Attributes:
        grid: grid of the volume.
        original: grid of the file that the scan came from, None where it is not known.
        source: path of that file, None where it is not known.
    """

    name: str
    grid: Grid
    original: Grid | None = None
    source: str | None = None


@dataclass(frozen=True)
class Volume:
    """One scan.

    Attributes:
        image: float32 (W, H, D).
        label: uint8 (W, H, D) or None.
        geometry: geometry of image and label.
        original: grid of the file that the scan came from, None where it is not known.
        source: path of that file, None where it is not known.
    """

    name: str
    image: np.ndarray
    label: np.ndarray | None
    geometry: Geometry
    original: Grid | None = None
    source: str | None = None

    @property
    def grid(self) -> Grid:
        return Grid(self.image.shape, self.geometry)


@dataclass(frozen=True)
class Dataset:
    """A dataset folder and how its files are read.

    Attributes:
        root: folder with ``data/`` and the lists.
        image_key: name of the HDF5 dataset that holds the image.
        binary_label: whether all labels above 0 are merged into class 1.
    """

    root: Path
    image_key: str = "image"
    binary_label: bool = False

    def path(self, name: str) -> Path:
        return self.root / "data" / f"{name}.h5"

    def names(self, list_name: str) -> list[str]:
        """Return the volume names of ``ROOT/list_name``, in order.

        Raises:
            DatasetError: if the list is missing or empty, repeats a name, or names something outside of the folder.
        """
        path = self.root / list_name
        try:
            if path.exists() and not path.is_file():
                raise DatasetError(f"{path} is not a file; write one volume name per line into a file of that name")
            if path.stat().st_size > MAX_LIST_BYTES:
                raise DatasetError(f"{path} is too large for a list of names; write one volume name per line into it")
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            remedy = "write one volume name per line into it, or name a dataset folder (prepare_data.py makes one)"
            raise DatasetError(f"{path} is missing; {remedy}") from None
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path} cannot be read as text ({error}); save it as UTF-8") from None
        names = [name for line in text.splitlines() if (name := line.split(",")[0].strip())]
        if not names:
            raise DatasetError(f"{path} names no volume; write one name per line into it")
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            raise DatasetError(f"{path} names {listed(repeated, 20)} more than once; keep one line of each")
        outside = [name if name.isprintable() else ascii(name) for name in names if not _is_plain(name)]
        if outside:
            folder = self.root / "data"
            raise DatasetError(f"{path} names {listed(outside)}; a line must be the plain name of a file in {folder}")
        return names

    def load(self, name: str) -> Volume:
        """Read one volume.

        Raises:
            DatasetError: if the file is missing or damaged, lacks the image, or holds arrays or attributes that cannot
                be used.
        """
        path = self.path(name)
        with self._open(name) as file:
            image = read_array(file, self.image_key, path)
            label = None if find(file, "label", path) is None else read_array(file, "label", path)
            header = self._header(name, file)
            if label is not None:
                if label.shape != image.shape:
                    shapes = f"image has shape {image.shape} and label {label.shape}"
                    raise DatasetError(f"{path}: {shapes}; they must be the same")
                label = as_label(label, path)
                if self.binary_label:
                    label = (label > 0).astype(np.uint8)
        image = np.ascontiguousarray(image, dtype=np.float32)
        return Volume(name, image, label, header.grid.geometry, header.original, header.source)

    def header(self, name: str) -> VolumeHeader:
        """Read the grid and the source of one volume, without decoding its arrays.

        Raises:
            DatasetError: as ``load`` does.
        """
        with self._open(name) as file:
            return self._header(name, file)

    def _header(self, name: str, file: h5py.File) -> VolumeHeader:
        path = self.path(name)
        grid = Grid(find_array(file, self.image_key, path).shape, read_geometry(file, path))
        source = file.attrs.get("source")
        return VolumeHeader(name, grid, read_original(file, path), source if isinstance(source, str) else None)

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[h5py.File]:
        """Open the file of a volume, which must not be a link that leaves the dataset folder.

        Raises:
            DatasetError: if it cannot be opened, or the body raises InputError.
        """
        path = self.path(name)
        try:
            is_file = path.is_file()
        except (OSError, ValueError):  # a name that no file can have
            is_file = False
        if not is_file:
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


def _is_plain(name: str) -> bool:
    """Return whether a name is that of a file in a folder, on any system."""
    drive = name[1:2] == ":"  # of Windows
    return name not in (".", "..") and not drive and not any(c in "/\\" or ord(c) < 32 or c == "\x7f" for c in name)


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


def write_volume(
    path: Path,
    image: np.ndarray,
    label: np.ndarray | None = None,
    geometry: Geometry | None = None,
    source: str | None = None,
    original: Grid | None = None,
) -> None:
    """Write one volume as HDF5, completely or not at all.

    Args:
        image: (W, H, D), stored as it is.
        label: (W, H, D), stored as uint8; None if the scan has none.
        geometry: stored as the attributes spacing, origin and direction if ``geometry.known``.
        source: path of the scan's own file, stored as an attribute.
        original: grid of that file, stored as attributes; predictions are resampled back to it.
    """
    with write_hdf5(path) as file:
        # The checksum reveals damaged files.
        stored = {"compression": "gzip", "compression_opts": 4, "fletcher32": True}
        file.create_dataset("image", data=image, **stored)
        if label is not None:
            file.create_dataset("label", data=label.astype(np.uint8), **stored)
        if geometry is not None:
            write_geometry(file, geometry)
        if original is not None:
            file.attrs["original_size"] = original.size
            write_geometry(file, original.geometry, "original_")
        if source is not None:
            file.attrs["source"] = source


def content_hash(array: np.ndarray) -> str:
    """Return a short hash of an array's values, shape and type."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
