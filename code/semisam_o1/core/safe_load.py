"""Safe loading of PyTorch files from untrusted sources: tensors and plain containers only."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from semisam_o1.core.errors import InputError, first_line

MAX_RECORD = 2**32  # bytes


def load_tensors(path: Path, record: str | None = None) -> Any:
    """Read tensors and plain containers from a PyTorch file, onto the CPU.

    The checksum and the length of every record are verified first, because PyTorch does not check them. Raises
    InputError if the file is missing, damaged, or holds anything else.

    Args:
        record: name of a record of ``path``, a ZIP archive, that is the PyTorch file; None: ``path`` itself is.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing or is no file; name a checkpoint")
    try:
        with path.open("rb") if record is None else io.BytesIO(read_record(path, record)) as file:
            _verify(file, path)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes PyTorch raise nearly any kind
        kind = type(error).__name__
        reason = "it is damaged or holds more than tensors" if kind == "UnpicklingError" else first_line(error)
    raise InputError(f"{path} cannot be read as a checkpoint ({reason}); get a whole copy of it")


def read_record(path: Path, record: str, max_bytes: int = MAX_RECORD) -> bytes:
    """Return one record of a ZIP archive; nothing is unpacked to the disk.

    Raises:
        InputError: if the archive is damaged, is compressed (a small one could hold any amount), or lacks the record.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [entry for entry in archive.infolist() if entry.filename == record]
            if len(found) != 1 or found[0].compress_type != zipfile.ZIP_STORED or found[0].flag_bits & 1:
                raise InputError(f"{path} holds no plain record {record}; is it a file that export.py wrote?")
            if found[0].file_size > min(max_bytes, path.stat().st_size):
                raise InputError(f"{path}: its record {record} cannot be as large as it says; get a whole copy of it")
            return archive.read(found[0])  # which verifies its checksum
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{path} cannot be read as an archive ({first_line(error)}); get a whole copy of it") from None


def _verify(file: BinaryIO, path: Path) -> None:
    """Refuse files that PyTorch must not open.

    Before PyTorch 2.6, ``weights_only`` does not protect from TorchScript archives and tar files (CVE-2025-32434).
    """
    zipped = file.read(4) == b"PK\x03\x04"  # the same test as in PyTorch
    file.seek(0)
    if not zipped:
        if tarfile.is_tarfile(file):
            raise InputError(f"{path} is a tar archive, which is not read; save it anew with torch.save")
        return
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        names = [record.filename for record in records]
        if len(set(names)) < len(names) or any(record.flag_bits & 1 for record in records):
            raise InputError(f"{path} is no archive that torch.save writes; get a whole copy of it")
        if any(name.rsplit("/", 1)[-1] == "constants.pkl" for name in names):
            raise InputError(f"{path} is a TorchScript program, which is not run; save its state_dict() instead")
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise InputError(f"{path} is compressed, as torch.save never writes; unpack and save it anew")
        if damaged := archive.testzip():
            raise InputError(f"{path} is damaged at its record {damaged}; get a whole copy of it")
