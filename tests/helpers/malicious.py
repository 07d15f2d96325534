"""Checkpoint files that would run code, or unfold to any size, if they were read carelessly."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import torch


class Malicious:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("pwned"),))


def zipped(path: Path) -> None:
    torch.save({"w": Malicious()}, path)


def legacy(path: Path) -> None:
    torch.save({"w": Malicious()}, path, _use_new_zipfile_serialization=False)


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious()))


def tar(path: Path) -> None:
    """The oldest format, whose parts PyTorch before 2.6 unpickles whatever it is told."""
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Malicious())
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def script(path: Path) -> None:
    """A TorchScript archive, which PyTorch before 2.6 runs whatever it is told."""
    torch.save({"w": torch.zeros(1)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(Malicious()))


def bomb(path: Path) -> None:
    """A megabyte of zeros for a kilobyte, as an archive of any size could be."""
    torch.save({"w": torch.zeros(2**18)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
