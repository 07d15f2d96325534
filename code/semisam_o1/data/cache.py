"""Arrays kept on disk by key: computed once, found again by every later run."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np


class ArrayCache:
    """One .npz file per key, written whole or not at all; a damaged one counts as absent.

    Args:
        folder: where the files lie.
        fallback: used instead where ``folder`` cannot be written, as on a read-only dataset.
    """

    def __init__(self, folder: Path, fallback: Path | None = None):
        self.folders = [folder] if fallback is None else [folder, fallback]

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """Return the arrays kept under ``key``, or None."""
        for folder in self.folders:
            try:
                with np.load(folder / f"{key}.npz", allow_pickle=False) as file:
                    return {name: file[name] for name in file.files}
            except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
                continue
        return None

    def put(self, key: str, **arrays: np.ndarray) -> None:
        """Keep arrays under ``key``.

        Raises:
            OSError: if no folder can be written.
        """
        for attempt, folder in enumerate(self.folders, start=1):
            try:
                path = folder / f"{key}.npz"
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(f".{os.getpid()}.partial")
                with partial.open("wb") as file:
                    np.savez(file, **arrays)
                partial.replace(path)
                return
            except OSError:
                if attempt == len(self.folders):
                    raise
