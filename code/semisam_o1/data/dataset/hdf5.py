"""HDF5 files from anywhere: what leads out of the file is not followed, and no header is believed before it is checked.

Free of PyTorch, so that the processes that read volumes start at once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from semisam_o1.core.atomic_io import write_bytes
from semisam_o1.core.errors import InputError
from semisam_o1.core.memory import available_memory

LARGE = 2**30  # bytes from which on a dataset must have been stored at a believable size
MAX_RATIO = 1100  # of compression; deflate cannot do better than 1032


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises:
        InputError: if it cannot be read, or what the body reads of it cannot.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except Exception as error:  # a damaged file makes h5py raise nearly any kind
        reason = str(error).splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} cannot be read as HDF5 ({reason}); write it again") from None


def find_array(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    """Return a 3-D array of numbers that the file itself holds, without reading its values.

    Raises:
        InputError: if there is no such array, or its values lie elsewhere.
    """
    dataset = find(file, key, path)
    if dataset is None:
        keys = ", ".join(sorted(map(str, file))) or "nothing"
        raise InputError(f"{path} holds no '{key}' (it holds {keys}); --image_key names the image")
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 3:
        shape = getattr(dataset, "shape", "a group")
        raise InputError(f"{path}: '{key}' must be one 3-D array (x, y, z), it is {shape}")
    if dataset.dtype.kind not in "iufb":
        raise InputError(f"{path}: '{key}' must hold numbers, it holds {dataset.dtype}")
    if 0 in dataset.shape:
        raise InputError(f"{path}: '{key}' is empty (shape {dataset.shape})")
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{path}: '{key}' takes its values from other files, which is not followed; copy them into it")
    return dataset


def read_array(file: h5py.File, key: str, path: Path) -> np.ndarray:
    """Read a 3-D array of numbers that the file itself holds.

    Raises:
        InputError: if there is no such array, its values lie elsewhere, or it does not fit in memory.
    """
    dataset = find_array(file, key, path)
    voxels = math.prod(dataset.shape)
    # Decoded, as float32, and one more array to check it with.
    needed, there = voxels * (dataset.dtype.itemsize + 8), available_memory()
    if needed > there:
        raise InputError(
            f"{path}: '{key}' claims {dataset.shape} voxels, which take {needed / 2**30:.1f} GiB of memory where "
            f"{there / 2**30:.1f} are available; check the file, or resample the scan"
        )
    stored = dataset.id.get_storage_size()
    if voxels * dataset.dtype.itemsize > max(LARGE, stored * MAX_RATIO):
        raise InputError(
            f"{path}: '{key}' claims {dataset.shape} voxels and stores {stored} bytes for them; write the file again"
        )
    return dataset[()]


def find(file: h5py.File, key: str, path: Path) -> h5py.Dataset | h5py.Group | None:
    """Return what lies under ``key`` (None: nothing), following no link of any kind.

    Raises:
        InputError: if the way there leads over a link.
    """
    item: h5py.Dataset | h5py.Group = file
    for part in key.strip("/").split("/"):
        if not isinstance(item, h5py.Group) or part in ("", ".", ".."):
            return None
        link = item.get(part, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            where = f" to {link.filename}" if isinstance(link, h5py.ExternalLink) else ""
            raise InputError(f"{path}: '{key}' is a link{where}, which is not followed; copy the data into the file")
        item = item[part]
    return item


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
