"""Segmentations of 3D Slicer: names, layers, and extents of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import prepare_data
from image_files import scan, write, write_segmentation
from semisam_o1.core.errors import InputError, run_command
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preparation.segmentation import Segment, read_segmentation, read_segments, values_of_names
from semisam_o1.data.preparation.settings import read_classes


def prepare(tmp_path: Path, *flags: object, masks: str = "masks") -> int:
    folders = ("--images", tmp_path / "images", "--labels", tmp_path / masks, "--template", "a")
    words = ("nifti", *folders, "--orientation", "keep", "--intensity", "keep", *flags, tmp_path / "out")
    return run_command(prepare_data.main, [str(word) for word in words])


@pytest.fixture
def label() -> np.ndarray:
    label = np.zeros(scan(0).shape, np.uint8)
    label[2:6, 3:7, 1:5] = 1
    label[4:6, 3:7, 1:5] = 2
    return label


def test_a_cropped_segmentation_lies_on_the_grid_of_its_image(tmp_path: Path, label: np.ndarray) -> None:
    for name in "ab":
        write(tmp_path / "images" / f"{name}.nrrd", scan(ord(name)))
    start = (2, 3, 1)
    write_segmentation(
        tmp_path / "masks" / "a.seg.nrrd", label[2:6, 3:7, 1:5], [("Liver", 1, 0), ("Tumor", 2, 0)], start
    )
    assert prepare(tmp_path) == 0
    dataset = Dataset(tmp_path / "out")
    np.testing.assert_array_equal(dataset.load("a").label, label)
    assert dataset.load("b").label is None
    classes = read_classes(tmp_path / "out")
    assert (classes.count, classes.names) == (3, {1: "Liver", 2: "Tumor"})
    assert [classes.name(c) for c in (1, 2, 3)] == ["Liver", "Tumor", "class 3"]


def test_images_and_segmentations_may_lie_in_one_folder(tmp_path: Path, label: np.ndarray) -> None:
    for name in "ab":
        write(tmp_path / "images" / f"{name}.nrrd", scan(ord(name)))
    write_segmentation(tmp_path / "images" / "a.seg.nrrd", label > 0, [("Liver", 1, 0)])
    assert prepare(tmp_path, masks="images") == 0
    np.testing.assert_array_equal(Dataset(tmp_path / "out").load("a").label, label > 0)
    assert Dataset(tmp_path / "out").names("train.txt") == ["a", "b"]


@pytest.mark.parametrize("kind", ["list", "vector"])
def test_layers_are_merged_and_the_later_segment_lies_above(tmp_path: Path, label: np.ndarray, kind: str) -> None:
    layers = np.stack([label > 0, label == 2], axis=3).astype(np.uint8)
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, layers, [("Liver", 1, 0), ("Tumor", 1, 1)])
    path.write_bytes(path.read_bytes().replace(b"kinds: vector", f"kinds: {kind}".encode()))
    segments = read_segments(path)
    assert segments == (Segment("Liver", 1, 0), Segment("Tumor", 1, 1))
    values = values_of_names([segments])
    assert values == {"Liver": 1, "Tumor": 2}
    np.testing.assert_array_equal(read_segmentation(path, values)[0], label)


def test_a_name_has_one_value_in_all_files(tmp_path: Path, label: np.ndarray) -> None:
    for name in "ab":
        write(tmp_path / "images" / f"{name}.nrrd", scan(ord(name)))
    write_segmentation(tmp_path / "masks" / "a.seg.nrrd", label, [("Liver", 1, 0), ("Tumor", 2, 0)])
    write_segmentation(tmp_path / "masks" / "b.seg.nrrd", label, [("Tumor", 1, 0), ("Liver", 2, 0)])
    assert prepare(tmp_path) == 0
    np.testing.assert_array_equal(Dataset(tmp_path / "out").load("b").label, np.array([0, 2, 1])[label])


def test_names_can_be_given_and_are_renamed_with_their_values(tmp_path: Path, label: np.ndarray) -> None:
    for name in "ab":
        write(tmp_path / "images" / f"{name}.nrrd", scan(ord(name)))
    write(tmp_path / "masks" / "a.nrrd", label)
    assert prepare(tmp_path, "--class_names", "liver, tumor") == 0
    assert read_classes(tmp_path / "out").names == {1: "liver", 2: "tumor"}
    content = json.loads((tmp_path / "out" / "preparation.json").read_text())
    assert (content["num_classes"], content["class_names"]) == (3, {"1": "liver", "2": "tumor"})


def test_segmentations_of_another_scan_or_without_a_layer_are_refused(
    tmp_path: Path, label: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        write(tmp_path / "images" / f"{name}.nrrd", scan(ord(name)))
    path = tmp_path / "masks" / "a.seg.nrrd"
    write_segmentation(path, label, [("Liver", 1, 0)], (6, 0, 0))
    assert prepare(tmp_path) == 2
    assert "of the segments lie outside of the image" in capsys.readouterr().err
    write_segmentation(path, label, [("Liver", 1, 3)])
    assert prepare(tmp_path) == 2
    assert "lacks the layer of its segment Liver" in capsys.readouterr().err
    write_segmentation(path, label, [("Liver", "one", 0)])
    assert prepare(tmp_path) == 2
    assert "describes its segments wrongly" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_segmentations_have_no_segments(tmp_path: Path) -> None:
    write(tmp_path / "a.nrrd", scan(0))
    write(tmp_path / "a.nii", scan(0))
    assert read_segments(tmp_path / "a.nrrd") == read_segments(tmp_path / "a.nii") == ()
    sitk.WriteImage(sitk.Image(2, 2, 2, sitk.sitkUInt8), str(tmp_path / "b.nrrd"))
    with pytest.raises(InputError, match="more than 255"):
        values_of_names([[Segment(f"s{i}", 1, 0) for i in range(256)]])
