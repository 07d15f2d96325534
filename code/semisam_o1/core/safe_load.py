"""Safe loading of PyTorch files from untrusted sources: tensors and plain containers only."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from semisam_o1.core.errors import InputError, first_line


def load_tensors(path: Path) -> Any:
    """Read tensors and plain containers from a PyTorch file, onto the CPU.

    The checksum and the length of every record are verified first, because PyTorch does not check them. Raises
    InputError if the file is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing or is no file; name a checkpoint")
    try:
        _verify(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes PyTorch raise nearly any kind
        kind = type(error).__name__
        reason = "it is damaged or holds more than tensors" if kind == "UnpicklingError" else first_line(error)
    raise InputError(f"{path} cannot be read as a checkpoint ({reason}); get a whole copy of it")


def _verify(path: Path) -> None:
    """Refuse files that PyTorch must not open.

    Before PyTorch 2.6, ``weights_only`` does not protect from TorchScript archives and tar files (CVE-2025-32434).
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # the same test as in PyTorch
    if not zipped:
        if tarfile.is_tarfile(path):
            raise InputError(f"{path} is a tar archive, which is not read; save it anew with torch.save")
        return
    with zipfile.ZipFile(path) as archive:
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
