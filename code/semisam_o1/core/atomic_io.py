"""Atomic file writes: completely or not at all; and JSON files, read back."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semisam_o1.core.errors import InputError, RunError, write_failure


class WriteError(RunError):
    """A file could not be written; an existing file at its path is unchanged."""


@contextlib.contextmanager
def replacing(path: Path, tag: str = "", keep_suffix: bool = False, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` and rename it to ``path`` once its content is on the disk.

    A missing folder is created.

    Args:
        tag: distinguishes writers that may write the same file at the same time.
        keep_suffix: end the temporary name like ``path``, for writers that choose a format by the file's ending.
        keep: what the old file is renamed to.

    Raises:
        WriteError: if the file cannot be written. An old file is unchanged, and the temporary one is deleted.
    """
    partial = path.with_name(f"partial{tag}_{path.name}" if keep_suffix else f"{path.name}{tag}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        remove(partial)
        raise WriteError(write_failure(path, error)) from error
    except BaseException:
        remove(partial)
        raise


def write_bytes(path: Path, content: bytes | memoryview, tag: str = "", keep: Path | None = None) -> None:
    """Write a file atomically; arguments and WriteError as of ``replacing``."""
    with replacing(path, tag, keep=keep) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) atomically; raises WriteError as ``replacing`` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; raises WriteError as ``replacing`` does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path, remedy: str) -> dict[str, Any] | None:
    """Return the JSON object in a file, None if there is no file; InputError with ``remedy`` if it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return content
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); {remedy}") from None


def remove(path: Path) -> None:
    """Delete a file if it exists and can be deleted."""
    with contextlib.suppress(OSError):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Flush a renamed entry to the disk, on systems that can sync folders."""
    with contextlib.suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
