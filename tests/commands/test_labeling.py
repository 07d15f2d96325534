"""One more mask goes into a dataset: onto the prepared grid, and the next training starts from it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import add_label
import prepare_data
from semisam_o1.commands.export import write_image
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Dataset, Geometry

GEOMETRY = Geometry((1.0, 1.5, 2.0), (4.0, -7.0, 2.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0), known=True)
SHAPE = (20, 18, 12)


def mask_of(i: int) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[3 + i : 13, 4:14, 2:9] = 1
    return mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four prepared scans, turned to RAS and resampled, of which the first is labeled."""
    for i in range(4):
        noise = np.random.default_rng(i).standard_normal(SHAPE)
        write_image(tmp_path / "scans" / f"p{i}.nii.gz", (mask_of(i) + 0.2 * noise).astype(np.float32), GEOMETRY)
    write_image(tmp_path / "masks" / "p0.nii.gz", mask_of(0), GEOMETRY)
    write_image(tmp_path / "p2_mask.nii.gz", mask_of(2), GEOMETRY)
    flags = ["--images", tmp_path / "scans", "--labels", tmp_path / "masks", "--spacing", "1.5", tmp_path / "data"]
    assert run_command(prepare_data.main, list(map(str, ["nifti", *flags]))) == 0
    return tmp_path / "data"


def label(root: Path, *arguments: object) -> int:
    return run_command(add_label.main, [str(part) for part in (root, *arguments)])


def test_the_mask_lies_on_the_prepared_grid_and_the_scan_counts_as_labeled(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Dataset(root).load("p2")
    assert label(root, "p2", root.parent / "p2_mask.nii.gz") == 0
    after = Dataset(root).load("p2")
    assert np.array_equal(after.image, before.image) and after.original == before.original
    assert after.label.shape == after.image.shape
    expected = mask_of(2).sum() * 3.0  # mm³
    assert after.label.sum() * 1.5**3 == pytest.approx(expected, rel=0.15)
    assert after.image[after.label == 1].mean() > after.image[after.label == 0].mean() + 1
    assert Dataset(root).names("train.txt") == ["p0", "p2", "p1", "p3"]
    printed = capsys.readouterr().out
    assert "--labeled_num 2" in printed and "the first 2 scans are labeled: p0, p2" in printed


def test_the_second_time_needs_overwrite_and_leaves_the_list(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = root.parent / "p2_mask.nii.gz"
    assert label(root, "p2", mask) == 0
    assert label(root, "p2", mask, "--labeled_num", 2) == 2
    assert "p2 has a label already; --overwrite replaces it" in capsys.readouterr().err
    assert label(root, "p2", mask, "--labeled_num", 2, "--overwrite") == 0
    assert Dataset(root).names("train.txt") == ["p0", "p2", "p1", "p3"]


def test_remarks_of_the_list_and_other_arrays_of_the_file_stay(root: Path) -> None:
    (root / "train.txt").write_text("p0, template\np1\n\np2, good\np3\n")
    with h5py.File(root / "data" / "p2.h5", "a") as file:
        file["t2"] = np.ones(3)
    assert label(root, "p2", root.parent / "p2_mask.nii.gz") == 0
    assert (root / "train.txt").read_text() == "p0, template\np2, good\np1\np3\n"
    with h5py.File(root / "data" / "p2.h5") as file:
        assert file["t2"][()].tolist() == [1, 1, 1]


@pytest.mark.parametrize("fault", ["unknown scan", "no mask", "empty", "elsewhere", "too many classes", "validation"])
def test_what_cannot_be_used_is_refused_and_nothing_is_written(
    fault: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask, name = root.parent / "other.nii.gz", "p9" if fault == "unknown scan" else "p2"
    array = {"empty": 0 * mask_of(2), "too many classes": 4 * mask_of(2)}.get(fault, mask_of(2))
    if fault != "no mask":
        moved = Geometry(GEOMETRY.spacing, (40.0, 0.0, 0.0), GEOMETRY.direction, known=True)
        write_image(mask, array, moved if fault == "elsewhere" else GEOMETRY)
    if fault == "validation":
        (root / "val.txt").write_text("p2\n")
    content = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    assert label(root, name, mask) == 2
    message = {
        "unknown scan": "holds no scan p9", "no mask": "other.nii.gz", "empty": "marks nothing of p2",
        "elsewhere": "apart", "too many classes": "classes end at 1", "validation": "val.txt names p2",
    }[fault]  # fmt: skip
    assert message in capsys.readouterr().err
    assert content == {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
