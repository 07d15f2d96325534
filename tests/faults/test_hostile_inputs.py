"""Files and names that nobody sends on purpose, or somebody does: each is refused or told, and nothing is written."""

from __future__ import annotations

import gzip
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import add_label
import prepare_data
import report
import suggest_template
import train_SemiSAM_O1
from image_files import write, write_segmentation
from semisam_o1.core.errors import run_command

SHAPE = (12, 10, 8)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 500, SHAPE).astype(np.int16)


def mask() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[3:8, 3:8, 2:6] = 1
    return label


def nifti(**fields: tuple[int, str, object]) -> bytes:
    """Return a NIfTI file whose header has other values: name → (offset, format, value)."""
    header = bytearray(348)
    values = {
        "size": (0, "i", 348),
        "dim": (40, "8h", (3, *SHAPE, 1, 1, 1, 1)),
        "type": (70, "2h", (4, 16)),
        "pixdim": (76, "8f", (1, 1, 1, 1, 0, 0, 0, 0)),
        "offset": (108, "2f", (352, 1)),
        "forms": (252, "2h", (1, 1)),
        "rows": (280, "12f", (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)),
        "magic": (344, "4s", b"n+1\0"),
    }
    for offset, kind, value in (values | fields).values():
        struct.pack_into(f"<{kind}", header, offset, *(value if isinstance(value, tuple) else (value,)))
    return bytes(header) + bytes(4) + image(1).tobytes(order="F")


def metaimage(**fields: object) -> bytes:
    """Return a MetaImage file with other entries in its header; None leaves one out."""
    entries = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "ElementSpacing": "1 1 1",
        "DimSize": "12 10 8",
        "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    } | fields
    text = "".join(f"{key} = {value}\n" for key, value in entries.items() if value is not None)
    return text.encode() + image(1).tobytes(order="F")


def nrrd(*lines: str, without: str = "", data: bytes | None = None) -> bytes:
    """Return an NRRD file with other fields in its header."""
    fields = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "12 10 8",
        "space directions": "(1,0,0) (0,1,0) (0,0,1)",
        "encoding": "raw",
        "endian": "little",
        "space origin": "(0,0,0)",
    }
    fields |= dict(line.split(": ") for line in lines)
    fields.pop(without, None)
    text = "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in fields.items()) + "\n"
    return text.encode() + (image(1).tobytes(order="F") if data is None else data)


nan, inf = float("nan"), float("inf")
IMAGES: dict[str, tuple[str, bytes]] = {
    "nothing at all": ("b.nii.gz", b""),
    "a gzip of nothing": ("b.nii.gz", gzip.compress(b"")),
    "a gzip of a text": ("b.nii.gz", gzip.compress(b"patient: unknown\n" * 40)),
    "a gzip cut off": ("b.nii.gz", gzip.compress(nifti())[:-400]),
    "a gzip with another checksum": ("b.nii.gz", gzip.compress(nifti())[:-8] + b"12345678"),
    "a NIfTI of two hundred axes": ("b.nii", nifti(dim=(40, "8h", (200, *SHAPE, 1, 1, 1, 1)))),
    "a NIfTI of no axis": ("b.nii", nifti(dim=(40, "8h", (0,) * 8))),
    "a NIfTI of negative sides": ("b.nii", nifti(dim=(40, "8h", (3, -12, 10, 8, 1, 1, 1, 1)))),
    "a NIfTI larger than its file": ("b.nii", nifti(dim=(40, "8h", (3, 30000, 30000, 30000, 1, 1, 1, 1)))),
    "a NIfTI of two axes": ("b.nii", nifti(dim=(40, "8h", (2, 12, 10, 1, 1, 1, 1, 1)))),
    "a NIfTI of many times": ("b.nii", nifti(dim=(40, "8h", (4, 12, 10, 2, 4, 1, 1, 1)))),
    "a NIfTI without size of its voxels": ("b.nii", nifti(pixdim=(76, "8f", (1, nan, nan, nan, 0, 0, 0, 0)))),
    "a NIfTI of endless voxels": ("b.nii", nifti(pixdim=(76, "8f", (1, inf, 1, 1, 0, 0, 0, 0)))),
    "a NIfTI of voxels of 5 m": ("b.nii", nifti(pixdim=(76, "8f", (1, 5e3, 5e3, 5e3, 0, 0, 0, 0)),
                                                forms=(252, "2h", (1, 0)))),
    "a NIfTI of an unknown type": ("b.nii", nifti(type=(70, "2h", (9999, 16)))),
    "a NIfTI of complex numbers": ("b.nii", nifti(type=(70, "2h", (1792, 128)))),
    "a NIfTI of colors": ("b.nii", nifti(type=(70, "2h", (128, 24)))),
    "a NIfTI that begins beyond its end": ("b.nii", nifti(offset=(108, "2f", (9e8, 1)))),
    "a NIfTI that begins before itself": ("b.nii", nifti(offset=(108, "2f", (-9000, 1)))),
    "a NIfTI with rows of NaN": ("b.nii", nifti(rows=(280, "12f", (nan,) * 12), forms=(252, "2h", (0, 1)))),
    "a NIfTI with a flat grid": ("b.nii", nifti(rows=(280, "12f", (0.0,) * 12), forms=(252, "2h", (0, 1)))),
    "a MetaImage of another file": ("b.mha", metaimage(ElementDataFile="/etc/passwd")),
    "a MetaImage of a list of files": ("b.mhd", metaimage(ElementDataFile="LIST")),
    "a MetaImage of a missing file": ("b.mhd", metaimage(ElementDataFile="../gone.raw")),
    "a MetaImage of no size": ("b.mha", metaimage(DimSize="0 0 0")),
    "a MetaImage of negative size": ("b.mha", metaimage(DimSize="-12 10 8")),
    "a MetaImage without size": ("b.mha", metaimage(DimSize=None)),
    "a MetaImage of voxels without size": ("b.mha", metaimage(ElementSpacing="0 0 0")),
    "a MetaImage of negative voxels": ("b.mha", metaimage(ElementSpacing="-1 1 1")),
    "a MetaImage of two axes": ("b.mha", metaimage(NDims=2, DimSize="12 10", ElementSpacing="1 1")),
    "a MetaImage of unknown numbers": ("b.mha", metaimage(ElementType="MET_WORD")),
    "a MetaImage larger than its file": ("b.mha", metaimage(DimSize="1200 1000 800")),
    "an NRRD of another file": ("b.nhdr", nrrd("data file: /etc/passwd", data=b"")),
    "an NRRD of a missing file": ("b.nhdr", nrrd("data file: gone.raw", data=b"")),
    "an NRRD of no size": ("b.nrrd", nrrd("sizes: 0 10 8")),
    "an NRRD of NaN directions": ("b.nrrd", nrrd("space directions: (nan,0,0) (0,1,0) (0,0,1)")),
    "an NRRD of a flat grid": ("b.nrrd", nrrd("space directions: (1,0,0) (1,0,0) (0,0,1)")),
    "an NRRD in an unknown encoding": ("b.nrrd", nrrd("encoding: rot13")),
    "an NRRD without type": ("b.nrrd", nrrd(without="type")),
    "an NRRD without data": ("b.nrrd", nrrd(data=b"")),
    "an NRRD of text": ("b.nrrd", nrrd("encoding: ascii", data=b"1 2 three")),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A scan with its mask."""
    write(tmp_path / "images" / "a.nii.gz", image())
    write(tmp_path / "masks" / "a.nii.gz", mask())
    return tmp_path


def prepare(folder: Path, *flags: str) -> int:
    places = ["--images", str(folder / "images"), "--labels", str(folder / "masks"), str(folder / "out")]
    return run_command(prepare_data.main, ["nifti", *places, *flags])


def refused(folder: Path, code: int, capfd: pytest.CaptureFixture[str], *parts: str) -> None:
    error = capfd.readouterr().err
    assert code == 2, error
    assert "Traceback" not in error and all(part in error for part in parts), error
    assert not (folder / "out").exists() and not list(folder.glob(".preparing*"))


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_that_cannot_be_used_is_named(case: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name, content = IMAGES[case]
    (folder / "images" / name).write_bytes(content)
    refused(folder, prepare(folder), capfd, name)


def with_values(kind: type, *values: float) -> np.ndarray:
    label = mask().astype(kind)
    label[0, 0, : len(values)] = values
    return label


def turned() -> sitk.Image:
    """Return the mask on a grid that is rotated by 30° against that of the image."""
    found = sitk.GetImageFromArray(mask().T)
    found.SetDirection((0.866, -0.5, 0, 0.5, 0.866, 0, 0, 0, 1))
    return found


MASKS: dict[str, Callable[[], sitk.Image]] = {
    "fractions": lambda: sitk.GetImageFromArray(with_values(np.float32, 0.5).T),
    "negative values": lambda: sitk.GetImageFromArray(with_values(np.int16, -1, -2).T),
    "values beyond a byte": lambda: sitk.GetImageFromArray(with_values(np.int32, 70000).T),
    "NaN": lambda: sitk.GetImageFromArray(with_values(np.float32, nan).T),
    "colors": lambda: sitk.GetImageFromArray(np.stack([mask().T] * 3, axis=-1), isVector=True),
    "a time axis": lambda: sitk.JoinSeries([sitk.GetImageFromArray(mask().T)] * 2),
    "another size": lambda: sitk.GetImageFromArray(mask()[1:].T),
    "a turned grid": turned,
    "nothing": lambda: sitk.GetImageFromArray(0 * mask().T),
}


@pytest.mark.parametrize("case", MASKS)
def test_a_mask_that_cannot_be_used_is_named(case: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sitk.WriteImage(MASKS[case](), str(folder / "masks" / "a.nii.gz"))
    refused(folder, prepare(folder), capfd, "a.nii.gz")


SEGMENTS: dict[str, tuple[str, object, object]] = {
    "a value that is a word": ("Liver", "one", 0),
    "a value that is negative": ("Liver", -1, 0),
    "a layer that is not there": ("Liver", 1, 99),
    "a negative layer": ("Liver", 1, -1),
    "a value that no voxel has": ("Liver", 7, 0),
    "a value beyond a byte": ("Liver", 300, 0),
}


@pytest.mark.parametrize("case", SEGMENTS)
def test_a_segmentation_that_cannot_be_used_is_named(
    case: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "masks" / "a.nii.gz").unlink()
    write_segmentation(folder / "masks" / "a.seg.nrrd", mask(), [SEGMENTS[case]])
    refused(folder, prepare(folder), capfd, "a.seg.nrrd")


@pytest.mark.parametrize("name", ["liver; rm -rf /", "<b>liver</b>", "肝臓", "a" * 3000, '"', "../../liver"])
def test_names_of_segments_are_text_whatever_they_hold(name: str, folder: Path) -> None:
    (folder / "masks" / "a.nii.gz").unlink()
    write_segmentation(folder / "masks" / "a.seg.nrrd", mask(), [(name, 1, 0)])
    assert prepare(folder) == 0
    assert json.loads((folder / "out" / "preparation.json").read_text())["class_names"] == {"1": name}


@pytest.mark.parametrize("name", ["b,c", " b", "b\\c", "b" * 230])
def test_a_name_that_a_list_cannot_hold_is_refused(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder / "images" / "b.nii.gz", image(1))
    (folder / "images" / "b.nii.gz").rename(folder / "images" / f"{name}.nii.gz")
    refused(folder, prepare(folder), capfd, "rename")


def test_what_is_no_file_is_skipped_and_told(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder / "images" / "b.nii.gz", image(1))
    (folder / "images" / "folder.nii.gz").mkdir()
    (folder / "images" / ".nii.gz").write_bytes(b"x")
    assert prepare(folder) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert "1 folders without a DICOM series (folder.nii.gz)" in told and "1 hidden (.nii.gz)" in told


@pytest.mark.parametrize("kind", ["a link to nowhere", "a link to itself", "a pipe"])
def test_a_path_that_cannot_be_opened_is_named(kind: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = folder / "images" / "b.nii.gz"
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "a link to itself" else "gone")
    refused(folder, prepare(folder), capfd, "b.nii.gz")


@pytest.fixture
def dataset(folder: Path) -> Path:
    for seed, name in enumerate("bcd", start=1):
        write(folder / "images" / f"{name}.nii.gz", image(seed))
    assert prepare(folder) == 0
    return folder / "out"


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "", ".", "b\0", "gone", "b" * 300])
def test_a_mask_is_put_to_no_other_place(name: str, dataset: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    assert run_command(add_label.main, [str(dataset), name, str(dataset.parent / "masks" / "a.nii.gz")]) == 2
    assert "Traceback" not in capfd.readouterr().err
    assert {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("mask_name", ["gone.nii.gz", "masks", "out/train.txt", "images/b.nii.gz"])
def test_what_is_no_mask_is_not_added(mask_name: str, dataset: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (dataset / "data" / "b.h5").read_bytes()
    assert run_command(add_label.main, [str(dataset), "b", str(dataset.parent / mask_name)]) == 2
    assert "Traceback" not in capfd.readouterr().err
    assert (dataset / "data" / "b.h5").read_bytes() == before


LISTS: dict[str, bytes] = {
    "zeros": bytes(100),
    "UTF-16": "a\nb\n".encode("utf-16"),
    "Latin-1": "a\nmüller\n".encode("latin-1"),
    "names of other folders": b"a\n../../b\n",
    "a drive": b"a\nC:b\n",
    "an escape of the terminal": b"a\n\x1b[2Jb\n",
    "a name twice": b"a\nb\nb\n",
    "a name that no file can have": b"a\n" + b"b" * 5000 + b"\n",
}


@pytest.mark.parametrize("case", LISTS)
def test_a_list_that_cannot_be_used_is_named(case: str, dataset: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (dataset / "train.txt").write_bytes(LISTS[case])
    flags = ["--root_path", str(dataset), "--exp", str(dataset.parent / "run"), "--recipe", "best"]
    assert run_command(train_SemiSAM_O1.main, [*flags, "--device", "cpu"]) == 2
    error = capfd.readouterr().err
    assert str(dataset) in error and "Traceback" not in error and "\x1b" not in error
    assert not list(dataset.parent.glob("run*"))
    assert run_command(suggest_template.main, [str(dataset)]) == 2


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"orientation": 3, "intensity": []}', '{"num_classes": "many"}', "null"]
)
def test_settings_that_were_changed_do_no_harm(content: str, dataset: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (dataset / "preparation.json").write_text(content)
    flags = ["--root_path", str(dataset), "--exp", str(dataset.parent / "run"), "--recipe", "best", "--check_only"]
    assert run_command(train_SemiSAM_O1.main, [*flags, "--device", "cpu"]) == 2
    error = capfd.readouterr().err
    assert "preparation.json" in error and "Traceback" not in error


@pytest.mark.parametrize("run", ["", "/", "/dev/null", "gone", "\0", "a" * 5000])
def test_what_is_no_run_has_no_report(run: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for main, flags in ((report.main, [run]), (suggest_template.main, ["--run", run])):
        assert run_command(main, flags) == 2
        assert "Traceback" not in capfd.readouterr().err
