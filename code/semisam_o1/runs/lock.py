"""The lock of a run folder: one process at a time works in it."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from semisam_o1.core import distributed
from semisam_o1.core.atomic_io import remove, write_json
from semisam_o1.core.errors import InputError

LOCK, HOLDER = LOCK_FILES = (".lock", ".lock.json")


class RunLock:
    """Held for the length of a run, by rank 0 for all ranks.

    The operating system's lock ends with the process, however that ends. A file beside it names the holder; where it
    is left over, the previous process was killed.

    Attributes:
        left_by: holder named in a leftover file, None where the previous process ended in order.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.left_by: dict[str, Any] | None = None
        self._lock = FileLock(folder / LOCK, timeout=0)

    def check(self) -> None:
        """Refuse a folder that another process works in.

        Raises:
            InputError: naming that process.
        """
        if (self.folder / LOCK).is_file():
            self._take()
            self._lock.release()

    def __enter__(self) -> RunLock:
        distributed.on_main(self._acquire)
        return self

    def __exit__(self, *_: object) -> None:
        if distributed.is_main():
            remove(self.folder / HOLDER)
            self._lock.release()

    def _acquire(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the run folder {self.folder} cannot be made ({error}); choose another --exp") from None
        self._take()
        self.left_by = _read(self.folder / HOLDER)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        write_json(self.folder / HOLDER, {"host": platform.node(), "pid": os.getpid(), "since": since})

    def _take(self) -> None:
        try:
            self._lock.acquire()
            return
        except Timeout:
            holder = describe(_read(self.folder / HOLDER))
            fault = f"is in use by another run{holder}; wait for it, stop it, or choose another --exp"
        except (OSError, NotImplementedError) as error:
            fault = f"cannot be locked ({error}); give a folder on a drive that can, as an absolute --exp"
        raise InputError(f"{self.folder} {fault}")


def describe(holder: dict[str, Any] | None) -> str:
    """Return who a holder is, to follow a noun; nothing where it is not known."""
    known = holder or {}
    return f" (process {known.get('pid')} on {known.get('host')}, since {known.get('since')})" if known else ""


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
