"""Atomic file writes: completely or not at all; and JSON files, read back."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semisam_o1.core.errors import InputError, RunError, is_disk_full


class WriteError(RunError):
    """A file could not be written; an existing file at its path is unchanged."""


@contextlib.contextmanager
def replacing(path: Path, tag: str = "", keep_suffix: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` and rename it to ``path`` once its content is on the disk.

    A missing folder is created.

    Args:
        tag: distinguishes writers that may write the same file at the same time.
        keep_suffix: end the temporary name like ``path``, for writers that choose a format by the file's ending.

    Raises:
        WriteError: if the file cannot be written. An old file is unchanged, and the temporary one is deleted.
    """
    partial = path.with_name(f"partial{tag}_{path.name}" if keep_suffix else f"{path.name}{tag}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        remove(partial)
        raise WriteError(_failure(path, error)) from error
    except BaseException:
        remove(partial)
        raise


def write_bytes(path: Path, content: bytes | memoryview, tag: str = "") -> None:
    """Write a file atomically; raises WriteError as ``replacing`` does."""
    with replacing(path, tag) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) atomically; raises WriteError as ``replacing`` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; raises WriteError as ``replacing`` does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path, remedy: str) -> dict[str, Any] | None:
    """Read a file that holds a JSON object; None if there is no file.

    Raises:
        InputError: with ``remedy``, if the file cannot be read or holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; {remedy}")
    return content


def _failure(path: Path, error: OSError) -> str:
    """Return the message for a file that cannot be written."""
    if is_disk_full(error):
        full = f"the disk is full or a quota is used up ({error.strerror})"
        return f"{path} cannot be written: {full}. What was saved before is complete; free some space"
    return f"{path} cannot be written ({error.strerror or error}); what was saved before is complete"


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
