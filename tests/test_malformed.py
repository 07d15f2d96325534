"""Malformed input of every kind: exit code 2, one sentence that names the file, no traceback, nothing written."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
import torch

import prepare_data
import test_baseline
import train_SemiSAM_O1
from semisam_o1.errors import run_command
from semisam_o1.networks import build_network
from test_checkpoint import bomb, script, tar, zipped
from tiny_cohort import train_flags, write_cohort

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


VOLUME = "data/train2.h5"
TEMPLATE = "data/train0.h5"
# What is spoilt, how, and what the message says; the name of the spoilt file is in every one.
DATASETS: dict[str, tuple[str, Spoil, str]] = {
    "no list": ("train.txt", Path.unlink, "is missing"),
    "empty list": ("train.txt", text(""), "names no volume"),
    "blank list": ("train.txt", text("\n \r\n\t\n"), "names no volume"),
    "only commas": ("val.txt", text(",,,\n,"), "names no volume"),
    "no validation list": ("val.txt", Path.unlink, "is missing"),
    "a name twice": ("train.txt", text("train0\ntrain1\ntrain1\n"), "names train1 more than once"),
    "a name twice with remarks": ("train.txt", text("train0\ntrain1,a\ntrain1,b\n"), "names train1 more than once"),
    "a name in two lists": ("val.txt", text("train3\n"), "which train.txt trains on"),
    "nothing unlabelled": ("train.txt", text("train0\n"), "no unlabelled volume is left"),
    "parent folder": ("train.txt", text("train0\n../data/train1\n"), "plain name"),
    "absolute path": ("train.txt", text("train0\n/etc/passwd\n"), "plain name"),
    "backslash": ("train.txt", text("train0\n..\\train1\n"), "plain name"),
    "drive": ("train.txt", text("train0\nC:train1\n"), "plain name"),
    "dots": ("train.txt", text("train0\n..\n"), "plain name"),
    "null byte": ("train.txt", text(b"train0\ntrain\0one\n"), "plain name"),
    "escape sequence": ("train.txt", text("train0\n\x1b[31mtrain1\n"), "plain name"),
    "UTF-16": ("train.txt", text("train0\ntrain1\n".encode("utf-16")), "UTF-8"),
    "Latin-1": ("train.txt", text("train0\nZürich\n".encode("latin-1")), "UTF-8"),
    "random bytes": ("train.txt", text(bytes(range(256))), "UTF-8"),
    "large list": ("train.txt", large, "too large"),
    "list is a folder": ("train.txt", instead(Path.mkdir), "is not a file"),
    "missing volume": (VOLUME, Path.unlink, "is missing"),
    "empty volume": (VOLUME, text(""), "cannot be read as HDF5"),
    "text volume": (VOLUME, text("a scan"), "cannot be read as HDF5"),
    "signature alone": (VOLUME, text(b"\x89HDF\r\n\x1a\n"), "cannot be read as HDF5"),
    "half a volume": (VOLUME, cut(0.5), "cannot be read as HDF5"),
    "nearly a volume": (VOLUME, cut(0.99), "cannot be read as HDF5"),
    "volume is a folder": (VOLUME, instead(Path.mkdir), "is missing"),
    "zipped volume": (VOLUME, lambda p: p.write_bytes(gzip.compress(p.read_bytes())), "cannot be read as HDF5"),
    "damaged voxels": (VOLUME, smear, "cannot be read as HDF5"),
    "no image": (VOLUME, edit(lambda f: f.move("image", "volume")), "holds no 'image' (it holds label, volume)"),
    "image is a group": (VOLUME, replace_image(lambda f: f.create_group("image")), "it is a group"),
    "no dimension": (VOLUME, rewrite("image", lambda a: a.mean()), "must be one 3-D array"),
    "two dimensions": (VOLUME, rewrite("image", lambda a: a[0]), "must be one 3-D array"),
    "four dimensions": (VOLUME, rewrite("image", lambda a: a[None]), "must be one 3-D array"),
    "no voxels": (VOLUME, rewrite("image", lambda a: a[:0]), "is empty"),
    "null space": (VOLUME, replace_image(lambda f: f.create_dataset("image", data=h5py.Empty("f"))), "3-D array"),
    "strings": (VOLUME, rewrite("image", lambda a: a.astype("S4")), "must hold numbers"),
    "complex numbers": (VOLUME, rewrite("image", lambda a: a + 1j), "must hold numbers"),
    "records": (VOLUME, rewrite("image", lambda a: np.zeros(a.shape, [("x", "f4")])), "must hold numbers"),
    "ragged rows": (
        VOLUME, replace_image(lambda f: f.create_dataset("image", (2, 2, 2), h5py.vlen_dtype(int))), "hold numbers"
    ),
    "a link to another file": (
        VOLUME, replace_image(lambda f: f.__setitem__("image", h5py.ExternalLink("train1.h5", "image"))), "not followed"
    ),
    "a label in another file": (
        VOLUME, edit(lambda f: (f.pop("label"), f.__setitem__("label", h5py.ExternalLink("train1.h5", "label")))),
        "not followed",
    ),
    "a soft link": (VOLUME, replace_image(lambda f: f.__setitem__("image", h5py.SoftLink("/elsewhere"))), "followed"),
    "a link in a circle": (
        VOLUME, replace_image(lambda f: f.__setitem__("image", h5py.SoftLink("/image"))), "not followed"
    ),
    "a virtual dataset": (VOLUME, replace_image(virtual), "takes its values from other files"),
    "voxels in a file outside": (
        VOLUME,
        replace_image(lambda f: f.create_dataset("image", (9, 9, 9), "u1", external=[("/etc/passwd", 0, 729)])),
        "takes its values from other files",
    ),
    "a petabyte": (VOLUME, replace_image(petabyte), "claims (100000, 100000, 100000) voxels"),
    "a bomb": (VOLUME, replace_image(unfolding), "claims (1024, 2048, 2048) voxels"),
    "NaN": (VOLUME, put("image", np.nan), "NaN or infinite"),
    "infinite": (VOLUME, put("image", -np.inf), "NaN or infinite"),
    "beyond float32": (VOLUME, put("image", 1e300), "NaN or infinite"),
    "a mark for missing data": (VOLUME, put("image", -3.4e38), "beyond float32 arithmetic"),
    "constant": (VOLUME, rewrite("image", lambda a: np.full_like(a, 7)), "every voxel of the image is 7"),
    "label of another shape": (VOLUME, rewrite("label", lambda a: a[:, 1:]), "they must be the same"),
    "label of two dimensions": (VOLUME, rewrite("label", lambda a: a[0]), "must be one 3-D array"),
    "fractional label": (VOLUME, put("label", 0.5), "whole numbers"),
    "negative label": (VOLUME, put("label", -1), "whole numbers"),
    "label of NaN": (VOLUME, put("label", np.nan), "whole numbers"),
    "label beyond a byte": (VOLUME, put("label", 256), "whole numbers"),
    "label beyond the classes": (VOLUME, put("label", 3), "--num_classes 3 allows 0 to 2"),
    "template without label": (TEMPLATE, edit(lambda f: f.pop("label")), "needs a label"),
    "template without foreground": (TEMPLATE, rewrite("label", np.zeros_like), "no foreground at all"),
    "template without a class": (TEMPLATE, rewrite("label", lambda a: a.clip(0, 1)), "nothing of class 2"),
    "validation without label": ("data/val0.h5", edit(lambda f: f.pop("label")), "needs a label"),
    "spacing of zero": (VOLUME, attribute("spacing", (1.0, 0.0, 1.0)), "'spacing' must be positive"),
    "spacing of NaN": (VOLUME, attribute("spacing", (1.0, np.nan, 1.0)), "3 finite numbers"),
    "spacing of two": (VOLUME, attribute("spacing", (1.0, 2.0)), "3 finite numbers"),
    "spacing in words": (VOLUME, attribute("spacing", "1 mm"), "3 finite numbers"),
    "direction of strings": (VOLUME, attribute("direction", ["a"] * 9), "9 finite numbers"),
    "origin of nothing": (VOLUME, attribute("origin", h5py.Empty("f")), "origin"),
}  # fmt: skip
POSIX_DATASETS: dict[str, tuple[str, Spoil, str]] = {
    "list is a pipe": ("train.txt", instead(os.mkfifo), "is not a file"),
    "endless list": ("train.txt", link("/dev/zero"), "is not a file"),
    "volume is a pipe": (VOLUME, instead(os.mkfifo), "is missing"),
    "a link outside": (VOLUME, link_outside, "outside of the dataset folder"),
    "a link to nothing": (VOLUME, link("nowhere.h5"), "is missing"),
    "a link to itself": (VOLUME, link("train2.h5"), "is missing"),
    "a name no file can have": ("train.txt", text(f"train0\n{'x' * 300}\n"), "is missing"),
} if hasattr(os, "mkfifo") else {}  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def root(cohort: Path, tmp_path: Path) -> Path:
    return shutil.copytree(cohort, tmp_path / "dataset")


def refused(command: Callable, flags: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must refuse its input, and return what it says."""
    code = run_command(command, [str(flag) for flag in flags])
    error = capsys.readouterr().err
    assert code == 2, error
    assert "Traceback" not in error
    assert error.startswith("error: ")
    return error


@pytest.mark.parametrize("case", [*DATASETS, *(pytest.param(case, marks=posix) for case in POSIX_DATASETS)])
def test_datasets(case: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, spoil, message = {**DATASETS, **POSIX_DATASETS}[case]
    spoil(root / name)
    error = refused(train_SemiSAM_O1.main, train_flags(root, tmp_path / "run"), capsys)
    assert Path(name).name in error or case == "a name no file can have"
    assert message in error
    assert error.count("\n") == 1, "one fault is one sentence"
    assert not list(tmp_path.glob("run*"))
    assert not (root / "features").exists()


def save(content: object) -> Spoil:
    return lambda path: torch.save(content, path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def foreign(path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, path)


def with_nan(path: Path) -> None:
    weights = torch.load(path, weights_only=True)
    weights["final.bias"][0] = torch.nan
    torch.save(weights, path)


def prefixed(path: Path) -> None:
    """Weights under a prefix that nobody knows, which are not quietly taken for something else."""
    torch.save({f"backbone.{key}": v for key, v in torch.load(path, weights_only=True).items()}, path)


CHECKPOINTS: dict[str, Spoil] = {
    "missing": Path.unlink,
    "empty": text(""),
    "a web page": text("<html>Not found</html>"),
    "a folder": instead(Path.mkdir),
    "half": cut(0.5),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one bit wrong": flip,
    "a program": zipped,
    "TorchScript": script,
    "tar": tar,
    "compressed": bomb,
    "a list": save([1, 2]),
    "a number": save(7),
    "no tensors": save({"a": 1}),
    "another network": foreign,
    "NaN": with_nan,
    "other names": prefixed,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "unet_3D_best_model.pth"
    torch.save(build_network("unet_3D", 3).state_dict(), path)
    return path


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints_to_test(
    case: str, trained: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine" / "unet_3D" / trained.name
    path.parent.mkdir(parents=True)
    shutil.copy(trained, path)
    CHECKPOINTS[case](path)
    flags = ["--root_path", cohort, "--exp", tmp_path / "mine", "--num_classes", 3, "--patch_size", 32, 16, 16]
    error = refused(test_baseline.main, [*flags, "--device", "cpu", "--ckpt", path], capsys)
    assert trained.name in error
    assert error.count("\n") == 1
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("case", [case for case in CHECKPOINTS if case not in ("NaN", "other names", "one bit wrong")])
def test_foundation_checkpoints(
    case: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sam.pth"
    torch.save({"model_state_dict": {"image_encoder.pos_embed": torch.zeros(2)}}, path)
    CHECKPOINTS[case](path)
    flags = train_flags(root, tmp_path / "run", propagation="prototype", features="sam", sam_ckpt=path)
    assert "sam.pth" in refused(train_SemiSAM_O1.main, flags, capsys)
    assert not list(tmp_path.glob("run*"))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"arguments": 3}', '{"arguments": {}}', "\0" * 50])
def test_arguments_of_a_run_to_go_on_with(
    content: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run_MT_1label_1" / "unet_3D"
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(content)
    error = refused(train_SemiSAM_O1.main, [*train_flags(root, tmp_path / "run"), "--resume"], capsys)
    assert "args.json cannot be read" in error
    assert (folder / "args.json").read_text() == content


def test_a_state_of_an_unknown_run(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run_MT_1label_1" / "unet_3D"
    folder.mkdir(parents=True)
    (folder / "state.pth").touch()
    error = refused(train_SemiSAM_O1.main, [*train_flags(root, tmp_path / "run"), "--resume"], capsys)
    assert "args.json is missing" in error


def nifti(path: Path, shape: tuple[int, ...] = (8, 9, 10)) -> None:
    values = np.random.default_rng(3).integers(0, 99, shape[::-1]).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


def claim(path: Path) -> None:
    """Let a header claim 32000³ voxels."""
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32000] * 3, "<i2").tobytes()
    path.write_bytes(content)


SCANS: dict[str, Spoil] = {
    "empty": text(""),
    "text": text("a scan"),
    "half": cut(0.5),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "two dimensions": lambda path: nifti(path, (8, 9)),
    "constant": lambda path: sitk.WriteImage(sitk.Image(8, 9, 10, sitk.sitkInt16), str(path)),
    "a huge claim": claim,
}


@pytest.mark.parametrize("case", SCANS)
def test_scans_to_prepare(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a", "b", "c", "d"):
        nifti(images / f"{name}.nii")
    SCANS[case](images / "b.nii")
    error = refused(prepare_data.main, ["nifti", "--images", images, tmp_path / "out"], capsys)
    assert "b.nii" in error
    assert not (tmp_path / "out").exists()


def test_the_corpus_is_large_enough() -> None:
    assert len(DATASETS) + len(CHECKPOINTS) + len(SCANS) >= 60
