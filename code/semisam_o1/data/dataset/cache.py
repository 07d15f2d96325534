"""Cache of arrays on disk, shared by all runs on a dataset."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from semisam_o1.core.atomic_io import WriteError, write_bytes


class ArrayCache:
    """One .npz file per key, written completely or not at all; a damaged file counts as missing.

    Args:
        folders: the first that can be written gets the files; the dataset may be read-only.
    """

    def __init__(self, *folders: Path):
        self.folders = folders

    def get(self, key: str, **dimensions: int) -> dict[str, np.ndarray] | None:
        """Return the arrays stored under ``key``, None if they are missing or damaged.

        Args:
            dimensions: number of axes of each array, whose values must be finite.
        """
        for folder in self.folders:
            with contextlib.suppress(Exception):  # whatever is wrong with a file, it can be computed again
                return _read(folder / f"{key}.npz", dimensions)
        return None

    def __contains__(self, key: str) -> bool:
        """Return whether there is a file for ``key``; it may be damaged."""
        return any((folder / f"{key}.npz").is_file() for folder in self.folders)

    def put(self, key: str, **arrays: np.ndarray) -> None:
        """Store arrays under ``key``; raises WriteError if no folder can be written."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        for folder in self.folders:
            try:
                # Several runs, and threads of a run, may compute the same at the same time.
                tag = f".{os.getpid()}-{threading.get_ident()}"
                return write_bytes(folder / f"{key}.npz", buffer.getbuffer(), tag=tag)
            except WriteError as error:
                failure = error
        raise failure


class ScratchCache(ArrayCache):
    """Reads the files of a cache; keeps in memory whatever is put, until it is dropped. Safe to use from threads."""

    def __init__(self, *folders: Path):
        super().__init__(*folders)
        self._kept: dict[str, dict[str, np.ndarray]] = {}

    def get(self, key: str, **dimensions: int) -> dict[str, np.ndarray] | None:
        kept = self._kept.get(key)
        return kept if kept is not None else super().get(key, **dimensions)

    def __contains__(self, key: str) -> bool:
        return key in self._kept or super().__contains__(key)

    def put(self, key: str, **arrays: np.ndarray) -> None:
        self._kept[key] = arrays

    def drop(self, part: str) -> None:
        """Forget what was put under keys that contain ``part``."""
        for key in [key for key in list(self._kept) if part in key]:
            self._kept.pop(key, None)


def _read(path: Path, dimensions: Mapping[str, int]) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        # np.savez stores them uncompressed; a compressed record could decode to any size.
        if any(record.compress_type != zipfile.ZIP_STORED for record in file.zip.infolist()):
            raise ValueError("compressed")
        arrays = {name: file[name] for name in file.files}
    for name, ndim in dimensions.items():
        if arrays[name].ndim != ndim or arrays[name].dtype.kind not in "fi" or not np.isfinite(arrays[name]).all():
            raise ValueError(name)
    return arrays
