"""Malformed lists and volumes: exit code 2, one sentence that names the file, no traceback, nothing written."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

import train_SemiSAM_O1
from malformed import (
    Spoil,
    attribute,
    cut,
    edit,
    instead,
    large,
    link,
    link_outside,
    petabyte,
    posix,
    put,
    refused,
    replace_image,
    rewrite,
    smear,
    text,
    unfolding,
    virtual,
)
from tiny_cohort import train_flags

VOLUME = "data/train2.h5"
TEMPLATE = "data/train0.h5"
# What is spoilt, how, and what the message says; the name of the spoilt file is in every one.
DATASETS: dict[str, tuple[str, Spoil, str]] = {
    "no list": ("train.txt", Path.unlink, "is missing"),
    "empty list": ("train.txt", text(""), "names no volume"),
    "blank list": ("train.txt", text("\n \r\n\t\n"), "names no volume"),
    "only commas": ("train.txt", text(",,,\n,"), "names no volume"),
    "a name twice": ("train.txt", text("train0\ntrain1\ntrain1\n"), "names train1 more than once"),
    "a name twice with remarks": ("train.txt", text("train0\ntrain1,a\ntrain1,b\n"), "names train1 more than once"),
    "a name in two lists": ("val.txt", text("train3\n"), "which train.txt trains on"),
    "nothing unlabeled": ("train.txt", text("train0\n"), "no unlabeled volume is left"),
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
    "label beyond the classes": (VOLUME, put("label", 3), "3 classes allow 0 to 2"),
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
