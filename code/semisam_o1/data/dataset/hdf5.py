"""HDF5 files from untrusted sources: links out of the file are not followed, and sizes are checked before reading.

Imports no PyTorch, so that the processes that read volumes start quickly.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from semisam_o1.core.atomic_io import write_bytes
from semisam_o1.core.errors import InputError, RunError, first_line
from semisam_o1.core.memory import available_memory
from semisam_o1.data.dataset.geometry import Geometry, Grid

MAX_UNCHECKED_BYTES = 2**30  # decoded size above which the compression ratio must be plausible
MAX_COMPRESSION_RATIO = 1100  # deflate reaches at most 1032
GEOMETRY_KEYS = ("spacing", "origin", "direction")


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises:
        InputError: if the file, or an object that the body reads, cannot be read.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (InputError, RunError):  # of the body, and explained
        raise
    except Exception as error:  # a damaged file makes h5py raise nearly any kind
        raise InputError(f"{path} cannot be read as HDF5 ({first_line(error)}); write it again") from None


def find_array(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    """Return a 3-D array of numbers that the file itself holds, without reading its values.

    Raises:
        InputError: if there is no such array, it is a link of any kind, or its values lie elsewhere.
    """
    item: h5py.Dataset | h5py.Group = file
    for part in key.strip("/").split("/"):
        inside = isinstance(item, h5py.Group) and part not in ("", ".", "..")
        link = item.get(part, getlink=True) if inside else None
        if link is None:
            keys = ", ".join(sorted(map(str, file))) or "nothing"
            raise InputError(f"{path} holds no '{key}' (it holds {keys}); name the dataset that holds the image")
        if not isinstance(link, h5py.HardLink):
            where = f" to {link.filename}" if isinstance(link, h5py.ExternalLink) else ""
            raise InputError(f"{path}: '{key}' is a link{where}, which is not followed; copy the data into the file")
        item = item[part]
    if not isinstance(item, h5py.Dataset) or item.ndim != 3:
        shape = getattr(item, "shape", "a group")
        raise InputError(f"{path}: '{key}' must be one 3-D array (x, y, z), it is {shape}")
    if item.dtype.kind not in "iufb":
        raise InputError(f"{path}: '{key}' must hold numbers, it holds {item.dtype}")
    if 0 in item.shape:
        raise InputError(f"{path}: '{key}' is empty (shape {item.shape})")
    if item.is_virtual or item.external:
        raise InputError(f"{path}: '{key}' takes its values from other files, which is not followed; copy them into it")
    return item


def read_array(file: h5py.File, key: str, path: Path) -> np.ndarray:
    """Read a 3-D array of numbers that the file itself holds.

    Raises:
        InputError: if there is no such array, its values lie elsewhere, or it does not fit in memory.
    """
    dataset = find_array(file, key, path)
    voxels = math.prod(dataset.shape)
    # The array as stored, as float32, and one more float32 array for the checks.
    needed, available = voxels * (dataset.dtype.itemsize + 8), available_memory()
    claim = f"{path}: '{key}' claims {dataset.shape} voxels"
    if needed > available:
        raise InputError(
            f"{claim}, which take {needed / 2**30:.1f} GiB of memory where {available / 2**30:.1f} are available; "
            "check the file, or resample the scan"
        )
    stored = dataset.id.get_storage_size()
    if voxels * dataset.dtype.itemsize > max(MAX_UNCHECKED_BYTES, stored * MAX_COMPRESSION_RATIO):
        raise InputError(f"{claim} and stores {stored} bytes for them; write the file again")
    return dataset[()]


def read_grid(file: h5py.File, path: Path, size: Sequence[int], prefix: str = "") -> Grid:
    """Return the grid of an array with the geometry that attributes of its file state.

    Args:
        prefix: of the names of the attributes.

    Raises:
        InputError: if the size or an attribute is malformed.
    """
    size, values = np.asarray(size), {}
    if size.shape != (3,) or size.dtype.kind not in "iu" or size.min() < 1:
        raise InputError(f"{path}: attribute '{prefix}size' must be 3 positive whole numbers")
    for key in GEOMETRY_KEYS:
        default = getattr(Geometry, key)
        raw = np.asarray(file.attrs.get(prefix + key, default))
        if raw.size != len(default) or raw.dtype.kind not in "iuf" or not np.isfinite(raw).all():
            raise InputError(f"{path}: attribute '{prefix}{key}' must be {len(default)} finite numbers")
        values[key] = tuple(raw.astype(float).ravel().tolist())
    if min(values["spacing"]) <= 0:
        raise InputError(f"{path}: attribute '{prefix}spacing' must be positive, it is {values['spacing']}")
    return Grid(tuple(size.tolist()), Geometry(known=f"{prefix}spacing" in file.attrs, **values))


def write_geometry(file: h5py.File, geometry: Geometry, prefix: str = "") -> None:
    """Write a geometry as attributes, if it is known."""
    for key in GEOMETRY_KEYS if geometry.known else ():
        file.attrs[prefix + key] = getattr(geometry, key)


@contextlib.contextmanager
def write_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file to fill; it is written to ``path`` when the body is done, completely or not at all.

    The file is made in memory: the HDF5 library does not survive a full disk.

    Raises:
        WriteError: if it cannot be written; an existing file is unchanged.
    """
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        content = file.id.get_file_image()
    write_bytes(path, content)
