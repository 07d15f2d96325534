"""Datasets on disk: one HDF5 file per volume and the lists that name them.

``ROOT/data/NAME.h5`` holds 'image' (W, H, D) and, where one exists, 'label' (W, H, D); axes are
(x, y, z). ``ROOT/train.txt``, ``val.txt`` and ``test.txt`` hold one name per line.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from semisam_o1.core.errors import InputError, listed
from semisam_o1.data.dataset.hdf5 import find, find_array, open_hdf5, read_array, write_hdf5

MAX_LIST_BYTES = 2**24


@dataclass(frozen=True)
class Geometry:
    """Where a volume lies in the patient, in ITK's convention (LPS, axes x, y, z)."""

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)  # mm
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)  # mm
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)  # row-major 3×3
    known: bool = False  # whether the file states a spacing


@dataclass(frozen=True)
class Grid:
    """The voxels of a scan: how many along x, y, z, and where they lie."""

    size: tuple[int, int, int]
    geometry: Geometry


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
        geometry: of the arrays here.
        original: the grid of the file that the scan came from, None where it is not known.
        source: that file.
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
    """A dataset folder and how its files are to be read.

    Attributes:
        root: the folder with ``data/`` and the lists.
        image_key: name of the HDF5 dataset that holds the image.
        binary_label: merge every label above 0 into class 1.
    """

    root: Path
    image_key: str = "image"
    binary_label: bool = False

    def path(self, name: str) -> Path:
        return self.root / "data" / f"{name}.h5"

    def names(self, list_name: str) -> list[str]:
        """Return the volume names of ``ROOT/list_name``, in order.

        Raises:
            InputError: if the list is missing, empty, repeats a name, or names something outside the folder.
        """
        path = self.root / list_name
        try:
            if path.exists() and not path.is_file():
                raise InputError(f"{path} is not a file; write one volume name per line into a file of that name")
            if path.stat().st_size > MAX_LIST_BYTES:
                raise InputError(f"{path} is too large for a list of names; write one volume name per line into it")
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise InputError(
                f"{path} is missing; write one volume name per line into it, or point --root_path at a "
                "dataset folder (prepare_data.py makes one)"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as text ({error}); save it as UTF-8") from None
        names = [line.split(",")[0].strip() for line in text.splitlines()]
        names = [name for name in names if name]
        if not names:
            raise InputError(f"{path} names no volume; write one name per line into it")
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            raise InputError(f"{path} names {listed(repeated, 20)} more than once; keep one line of each")
        outside = [name for name in names if not _is_plain(name)]
        if outside:
            raise InputError(
                f"{path} names {listed(name if name.isprintable() else ascii(name) for name in outside)}; a line "
                f"must be the plain name of a file in {self.root / 'data'}"
            )
        return names

    def load(self, name: str) -> Volume:
        """Read one volume.

        Raises:
            InputError: if the file is missing, is not HDF5, lacks the image or holds something not 3-D.
        """
        path = self._inside(name)
        with open_hdf5(path) as file:
            image = read_array(file, self.image_key, path)
            label = None if find(file, "label", path) is None else read_array(file, "label", path)
            geometry = _read_geometry(file, path)
            original = _read_original(file, path)
            source = file.attrs.get("source")
        if label is not None:
            if label.shape != image.shape:
                raise InputError(
                    f"{path}: image has shape {image.shape} and label {label.shape}; they must be the same"
                )
            label = as_label(label, path)
            if self.binary_label:
                label = (label > 0).astype(np.uint8)
        source = source if isinstance(source, str) else None
        return Volume(name, np.ascontiguousarray(image, dtype=np.float32), label, geometry, original, source)

    def header(self, name: str) -> VolumeHeader:
        """Read the grid and the source of one volume, without decoding its arrays.

        Raises:
            InputError: if the file is missing, is not HDF5, lacks the image or holds something not 3-D.
        """
        path = self._inside(name)
        with open_hdf5(path) as file:
            grid = Grid(find_array(file, self.image_key, path).shape, _read_geometry(file, path))
            source = file.attrs.get("source")
            return VolumeHeader(name, grid, _read_original(file, path), source if isinstance(source, str) else None)

    def _inside(self, name: str) -> Path:
        """Return the file of a volume.

        Raises:
            InputError: if it is missing, or is a link that leaves the dataset folder.
        """
        path = self.path(name)
        try:
            there = path.is_file()
        except (OSError, ValueError):  # a name that no file can have
            there = False
        if not there:
            raise InputError(f"{path} is missing; put it there or take {name} out of the lists")
        file = path.resolve()
        # The folder itself may be a link: that is its owner's choice, not that of whoever made its content.
        if not any(file.is_relative_to(folder.resolve()) for folder in (self.root, path.parent)):
            raise InputError(f"{path} is a link to {file}, outside of the dataset folder; copy the file there")
        return path


def _is_plain(name: str) -> bool:
    """Return whether a name is that of a file in a folder, on any system."""
    drive = name[1:2] == ":"  # of Windows
    return name not in (".", "..") and not drive and not any(c in "/\\" or ord(c) < 32 or c == "\x7f" for c in name)


def as_label(label: np.ndarray, path: Path) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        whole = label.astype(np.uint8)
    if not np.array_equal(whole, label):
        raise InputError(f"{path}: label values must be whole numbers from 0 to 255")
    return np.ascontiguousarray(whole)


def _read_original(file: h5py.File, path: Path) -> Grid | None:
    """Return the grid of the scan's own file, None where it is not stated."""
    if "original_size" not in file.attrs:
        return None
    size = np.asarray(file.attrs["original_size"])
    if size.shape != (3,) or size.dtype.kind not in "iu" or size.min() < 1:
        raise InputError(f"{path}: attribute 'original_size' must be 3 positive whole numbers")
    return Grid(tuple(size.tolist()), _read_geometry(file, path, "original_"))


def _read_geometry(file: h5py.File, path: Path, prefix: str = "") -> Geometry:
    known = f"{prefix}spacing" in file.attrs
    values = {}
    for key, default in (
        ("spacing", Geometry.spacing),
        ("origin", Geometry.origin),
        ("direction", Geometry.direction),
    ):
        raw = np.asarray(file.attrs.get(prefix + key, default))
        if raw.size != len(default) or raw.dtype.kind not in "iuf" or not np.isfinite(raw).all():
            raise InputError(f"{path}: attribute '{prefix}{key}' must be {len(default)} finite numbers")
        values[key] = tuple(float(value) for value in raw.ravel())
    if min(values["spacing"]) <= 0:
        raise InputError(f"{path}: attribute '{prefix}spacing' must be positive, it is {values['spacing']}")
    return Geometry(known=known, **values)


def write_volume(
    path: Path,
    image: np.ndarray,
    label: np.ndarray | None = None,
    geometry: Geometry | None = None,
    source: str | None = None,
    original: Grid | None = None,
) -> None:
    """Write one volume as HDF5, whole or not at all.

    Args:
        image: (W, H, D), stored as it is.
        label: (W, H, D), stored as uint8; None where the scan has none.
        geometry: written as the attributes spacing, origin and direction when ``geometry.known``.
        source: where the scan came from, kept as an attribute.
        original: the grid that it has there, kept as attributes too: the way back for a label map.
    """
    with write_hdf5(path) as file:
        # The checksum tells a damaged file from a whole one.
        stored = {"compression": "gzip", "compression_opts": 4, "fletcher32": True}
        file.create_dataset("image", data=image, **stored)
        if label is not None:
            file.create_dataset("label", data=label.astype(np.uint8), **stored)
        if geometry is not None:
            _write_geometry(file, geometry)
        if original is not None:
            file.attrs["original_size"] = original.size
            _write_geometry(file, original.geometry, "original_")
        if source is not None:
            file.attrs["source"] = source


def _write_geometry(file: h5py.File, geometry: Geometry, prefix: str = "") -> None:
    if geometry.known:
        for key in ("spacing", "origin", "direction"):
            file.attrs[prefix + key] = getattr(geometry, key)


def content_hash(array: np.ndarray) -> str:
    """Return a short hash of an array's values, shape and type."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
