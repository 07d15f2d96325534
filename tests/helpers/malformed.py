"""Ways to spoil a file, and the check that a command refuses it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from semisam_o1.core.errors import run_command

Spoil = Callable[[Path], object]
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs links, pipes and names that Windows does not have")


def rewrite(key: str, change: Callable[[np.ndarray], np.ndarray], **keywords: object) -> Spoil:
    """Return a change of one array of an HDF5 file."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            array = change(file[key][()])
            del file[key]
            file.create_dataset(key, data=array, **keywords)

    return spoil


def put(key: str, value: float) -> Spoil:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float64)
        array[2, 3, 4] = value
        return array

    return rewrite(key, change)


def edit(change: Callable[[h5py.File], object]) -> Spoil:
    """Return a change of the structure of an HDF5 file."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return spoil


def replace_image(make: Callable[[h5py.File], object]) -> Spoil:
    def change(file: h5py.File) -> None:
        file.move("image", "elsewhere")
        make(file)

    return edit(change)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((26, 20, 17), np.float32)
    layout[:] = h5py.VirtualSource("/etc/passwd", "image", (26, 20, 17))
    file.create_virtual_dataset("image", layout)


def petabyte(file: h5py.File) -> None:
    file.create_dataset("image", (100_000, 100_000, 100_000), np.uint8)


def unfolding(file: h5py.File) -> None:
    """Chunks that were never written: 4 GiB from a few bytes."""
    file.create_dataset("image", (1024, 2048, 2048), np.uint8, chunks=(64, 64, 64), compression="gzip")


def cut(share: float) -> Spoil:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def smear(path: Path) -> None:
    """Overwrite the compressed voxels."""
    with h5py.File(path) as file:
        place = file["image"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[place.byte_offset + 20 : place.byte_offset + 40] = bytes(20)
    path.write_bytes(content)


def link(target: str) -> Spoil:
    def spoil(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return spoil


def link_outside(path: Path) -> None:
    outside = path.parents[2] / "secret.h5"
    path.replace(outside)
    path.symlink_to(outside)


def instead(make: Spoil) -> Spoil:
    def spoil(path: Path) -> None:
        path.unlink()
        make(path)

    return spoil


def attribute(name: str, value: object) -> Spoil:
    return edit(lambda file: file.attrs.__setitem__(name, value))


def text(content: str | bytes) -> Spoil:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def large(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2**25)


def refused(command: Callable, flags: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must refuse its input, and return what it says."""
    code = run_command(command, [str(flag) for flag in flags])
    error = capsys.readouterr().err
    assert code == 2, error
    assert "Traceback" not in error
    assert error.startswith("error: ")
    return error
