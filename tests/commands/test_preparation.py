"""Datasets made of NIfTI folders and of the public LA copy: volumes, lists, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from image_files import TURNED_SHAPE, make_cohort, turned_scan, write_turned
from semisam_o1.commands import preparation
from semisam_o1.commands.preparation import PrepareConfig, parse_label_map, prepare
from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Volume, write_volume
from semisam_o1.data.preparation.formats import read_image
from semisam_o1.data.preparation.lists import LISTS
from semisam_o1.data.preparation.scans import normalize
from semisam_o1.data.preparation.settings import Preparation, read_classes

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "real_data"


def prepare_nifti(images: Path, labels: Path, template: str | None, out: Path, **keywords: object) -> str:
    settings = Preparation(orientation="keep")
    config = PrepareConfig(
        layout="nifti",
        source=images,
        labels=[str(labels)],
        template=template,
        destination=out,
        preparation=settings,
        **keywords,
    )
    return prepare(config)


def prepare_la(source: Path, out: Path, **keywords: object) -> str:
    settings = Preparation(orientation="keep", intensity="keep")
    return prepare(PrepareConfig(layout="la", source=source, destination=out, preparation=settings, **keywords))


def given(files: dict[str, Path]) -> dict[str, Path]:
    return {name.removesuffix(".txt"): path for name, path in files.items()}


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_label_values_are_read_from_the_command_line() -> None:
    assert parse_label_map(["3=1, 4=2,other=0"]) == ({3: 1, 4: 2}, 0)
    assert parse_label_map(["3=1", "4=2"]) == ({3: 1, 4: 2}, None)
    for texts in (["3:1"], ["a=1"], ["3=1,3=2"], ["3=1", "3=2"], ["other=0,other=1"], ["300=1"], ["1=256"], [""]):
        with pytest.raises(InputError, match="--label_map"):
            parse_label_map(texts)


@pytest.mark.parametrize("split", [(0.7, 0.1, 0.1), (0, 0.5, 0.5), (1.1, -0.1, 0.0)])
def test_split_must_be_fractions_of_all_scans(tmp_path: Path, split: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="--split"):
        prepare_nifti(tmp_path, tmp_path, "a", tmp_path / "out", split=split)


# NIfTI folders


def test_label_of_whole_numbers_in_a_float_file_is_accepted(tmp_path: Path) -> None:
    images, labels = make_cohort(tmp_path, 2, 1)
    write_turned(labels / "s0.nii.gz", (turned_scan(0) > 200).astype(np.float64) * 3)
    prepare_nifti(images, labels, "s0", tmp_path / "out")
    np.testing.assert_array_equal(np.unique(Dataset(tmp_path / "out").load("s0").label), [0, 3])


def test_prepared_scan_keeps_voxels_and_geometry(tmp_path: Path) -> None:
    images, labels = make_cohort(tmp_path, 3, 2)
    prepare_nifti(images, labels, "s1", tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    volume = dataset.load("s1")
    np.testing.assert_allclose(volume.image, normalize(turned_scan(1)))
    np.testing.assert_array_equal(volume.label, turned_scan(1) > 200)
    assert volume.geometry == read_image(images / "s1.nii.gz")[1]
    assert dataset.load("s2").label is None
    assert dataset.names("train.txt") == ["s1", "s2"]
    assert dataset.names("val.txt") == ["s0"]
    assert not (tmp_path / "out" / "test.txt").exists()


def test_all_faults_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    images, labels = make_cohort(tmp_path, 5, 4)
    write_turned(labels / "s1.nii.gz", np.zeros((6, 7, 9), np.uint8))
    write_turned(labels / "s2.nii.gz", np.zeros(TURNED_SHAPE, np.uint8), spacing=(1.0, 1.0, 2.5))
    (images / "s3.nii.gz").write_text("no image")
    with pytest.raises(InputError) as caught:
        prepare_nifti(images, labels, "s4", tmp_path / "out")
    message = str(caught.value)
    assert message.startswith("4 faults, nothing was written:")
    assert f"{images / 's1.nii.gz'} has the size 6 × 7 × 8 and its label {labels / 's1.nii.gz'} 6 × 7 × 9" in message
    assert "s2.nii.gz differ in spacing or direction" in message
    assert f"{images / 's3.nii.gz'} cannot be read" in message
    assert "the template s4 cannot be used" in message
    assert not (tmp_path / "out").exists()


def test_faults_of_voxels_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    images, labels = make_cohort(tmp_path, 4, 3)
    write_turned(images / "s1.nii.gz", np.full(TURNED_SHAPE, 5.0))
    write_turned(labels / "s2.nii.gz", np.full(TURNED_SHAPE, 0.5))
    with pytest.raises(InputError) as caught:
        prepare_nifti(images, labels, "s0", tmp_path / "out")
    assert f"{images / 's1.nii.gz'} is constant" in str(caught.value)
    assert f"{labels / 's2.nii.gz'}: label values must be whole numbers" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_names_must_be_unique_and_fit_a_list(tmp_path: Path) -> None:
    images, labels = make_cohort(tmp_path, 2, 1)
    write_turned(images / "s0.mha", turned_scan(0))
    write_turned(images / "a,b.mha", turned_scan(0))
    with pytest.raises(InputError, match=r"(?s)a,b.mha has a name that a list cannot hold.*same name s0"):
        prepare_nifti(images, labels, "s0", tmp_path / "out")


def test_nnunet_names_and_mac_litter(tmp_path: Path) -> None:
    images, labels = make_cohort(tmp_path, 3, 2)
    for path in list(images.iterdir()):
        path.rename(images / path.name.replace(".nii", "_0000.nii"))
    (images / "._s0_0000.nii.gz").write_bytes(b"litter")
    (images / "dataset.json").write_text("{}")
    prepare_nifti(images, labels, "s0", tmp_path / "out")
    assert sorted(path.stem for path in (tmp_path / "out" / "data").iterdir()) == ["s0", "s1", "s2"]
    write_turned(images / "s0_0001.nii.gz", turned_scan(9))
    with pytest.raises(InputError, match="s0_0001"):
        prepare_nifti(images, labels, "s0", tmp_path / "other")


def test_scans_that_are_numbered_keep_their_numbers(tmp_path: Path) -> None:
    for index in range(2):
        write_turned(tmp_path / "images" / f"case_000{index}.mha", turned_scan(index))
        write_turned(tmp_path / "labels" / f"case_000{index}.mha", (turned_scan(index) > 200).astype(np.uint8))
    prepare_nifti(tmp_path / "images", tmp_path / "labels", "case_0001", tmp_path / "out")
    assert Dataset(tmp_path / "out").names("train.txt") == ["case_0001", "case_0000"]


def test_given_lists_are_checked_together(tmp_path: Path) -> None:
    images, labels = make_cohort(tmp_path, 4, 3)
    files = {name: tmp_path / name for name in LISTS}
    files["train.txt"].write_text("s1\ns2\n")
    files["val.txt"].write_text("s3\nghost\n")
    files["test.txt"].write_text("s1\n")
    with pytest.raises(InputError) as caught:
        prepare_nifti(images, labels, "s0", tmp_path / "out", **given(files))
    for part in ("ghost", "s3, which have no label", "both name s1", "does not name the template s0"):
        assert part in str(caught.value)

    files["val.txt"].write_text("s0, a remark\n")
    del files["test.txt"]
    report = prepare_nifti(images, labels, "s2", tmp_path / "out", **given(files))
    dataset = Dataset(tmp_path / "out")
    assert (dataset.names("train.txt"), dataset.names("val.txt")) == (["s2", "s1"], ["s0"])
    assert "in no list: s3" in report


def test_nothing_that_differs_is_replaced_unless_asked(tmp_path: Path) -> None:
    images, labels = make_cohort(tmp_path, 4, 3)
    out = tmp_path / "out"
    prepare_nifti(images, labels, "s0", out)
    before = tree(out)
    assert "(0 written, 4 kept)" in prepare_nifti(images, labels, "s0", out)
    assert tree(out) == before
    with pytest.raises(InputError, match=r"train.txt exists and names other scans; overwrite it"):
        prepare_nifti(images, labels, "s1", out)
    write_turned(images / "s2.nii.gz", turned_scan(77))
    with pytest.raises(InputError, match=r"s2.h5 exists and differs; overwrite it"):
        prepare_nifti(images, labels, "s0", out)
    assert tree(out) == before
    assert "(1 written, 3 kept)" in prepare_nifti(images, labels, "s1", out, overwrite=True)
    np.testing.assert_allclose(Dataset(out).load("s2").image, normalize(turned_scan(77)))
    assert Dataset(out).names("train.txt")[0] == "s1"


# The public LA copy


@pytest.fixture
def standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the project's lists: A B C / D / E."""
    folder = tmp_path / "project" / "data" / "LA"
    folder.mkdir(parents=True)
    for name, text in zip(LISTS, ("A\nB\nC\n", "D\n", "E\n"), strict=True):
        (folder / name).write_text(text)
    monkeypatch.setattr(preparation, "STANDARD_LA", folder.resolve())
    return folder


def public_copy(folder: Path, names: str) -> Path:
    for index, name in enumerate(names):
        volume = Volume(name, turned_scan(index), (turned_scan(index) > 200).astype(np.uint8))
        write_volume(folder / name / "mri_norm2.h5", volume)
    return folder


def test_la_values_are_unchanged_and_lists_are_restricted(tmp_path: Path, standard: Path) -> None:
    source = public_copy(tmp_path / "public", "ABDX")
    report = prepare_la(source, tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    for index, name in enumerate("ABDX"):
        volume = dataset.load(name)
        np.testing.assert_array_equal(volume.image, turned_scan(index))
        np.testing.assert_array_equal(volume.label, turned_scan(index) > 200)
        assert volume.geometry == Geometry((0.625,) * 3, known=True)
    assert (dataset.names("train.txt"), dataset.names("val.txt")) == (["A", "B"], ["D"])
    assert not (tmp_path / "out" / "test.txt").exists()
    for part in (
        "missing of train.txt, 1 of 3: C", "missing of test.txt, 1 of 1: E",
        "no scan is left for it: test.txt", "in no list: X", "train_SemiSAM_O1.py --root_path",
    ):  # fmt: skip
        assert part in report


@pytest.mark.parametrize("overwrite", [False, True])
def test_la_lists_of_the_project_stay_whole(tmp_path: Path, standard: Path, overwrite: bool) -> None:
    report = " ".join(prepare_la(public_copy(tmp_path / "public", "AD"), standard, overwrite=overwrite).split())
    assert Dataset(standard).names("train.txt") == ["A", "B", "C"]
    assert "missing of train.txt, 2 of 3: B, C" in report
    assert "name scans that are not there" in report
    assert "train_SemiSAM_O1" not in report
    report = prepare_la(public_copy(tmp_path / "public", "ABCDE"), standard, overwrite=True)
    assert f"--root_path {standard.resolve()}" in report


def test_la_faults_are_listed_and_nothing_is_written(tmp_path: Path, standard: Path) -> None:
    source = public_copy(tmp_path / "public", "ABD")
    (source / "A" / "mri_norm2.h5").write_text("no HDF5")
    write_volume(source / "D" / "mri_norm2.h5", Volume("D", np.zeros(TURNED_SHAPE, np.float32)))
    with pytest.raises(InputError, match=r"(?s)2 faults.*A/mri_norm2.h5 cannot be read.*D/mri_norm2.h5 is constant"):
        prepare_la(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"holds no NAME/mri_norm2\.h5"):
        prepare_la(source / "A", tmp_path / "out")


# Real scans


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"the real scans are not at {REAL_DATA}")
def test_hippocampus_scans_make_the_development_split(tmp_path: Path) -> None:
    images, labels = (REAL_DATA / "hippocampus" / name for name in ("imagesTr", "labelsTr"))
    names = sorted(path.name.removesuffix(".nii.gz") for path in labels.iterdir())
    parts = (names[:40], names[40:45], names[45:60])
    files = {}
    for key, listed in zip(LISTS, parts, strict=True):
        files[key] = tmp_path / key
        files[key].write_text("\n".join(listed))
    report = prepare_nifti(images, labels, None, tmp_path / "out", **given(files))
    dataset = Dataset(tmp_path / "out")
    assert tuple(dataset.names(key) for key in LISTS) == parts
    assert re.search(r"label values +0, 1, 2 +0, 1, 2", report)
    assert "in no list: hippocampus_118" in report
    assert read_classes(tmp_path / "out").count == 3
    assert dataset.load("hippocampus_118").label is None
    for name in (names[0], names[23]):
        volume, truth = dataset.load(name), nib.load(labels / f"{name}.nii.gz")
        np.testing.assert_array_equal(volume.label, np.asarray(truth.dataobj))
        affine = np.diag([-1, -1, 1]) @ np.reshape(volume.geometry.direction, (3, 3)) * volume.geometry.spacing
        np.testing.assert_allclose(affine, truth.affine[:3, :3], atol=1e-5)
