"""Datasets on disk: lists, HDF5 files, and messages that name the file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from malformed import smear
from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Grid, Volume, VolumeHeader, content_hash, write_volume

IMAGE = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
LABEL = (IMAGE % 3).astype(np.uint8)


def write_raw(root: Path, attributes: dict | None = None, **arrays) -> Dataset:
    """Write ROOT/data/a.h5 with any content."""
    (root / "data").mkdir()
    with h5py.File(root / "data" / "a.h5", "w") as file:
        for key, value in arrays.items():
            file[key] = value
        file.attrs.update(attributes or {})
    return Dataset(root)


@pytest.mark.parametrize(
    "content",
    [
        b"a\nb c\n",
        b"\xef\xbb\xbfa\nb c",
        b"a\r\nb c\r\n",
        b"\n  a  \n\n\tb c\n\n",
        b"a,0.3,x\nb c,\n",
    ],
)
def test_lists_in_common_formats_are_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(content)
    assert Dataset(tmp_path).names("train.txt") == ["a", "b c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no volume"),
        (b"\n ,\n", "names no volume"),
        (b"a\nb\na\n", "names a more than once"),
        (b"../a\n", r"names \.\./a"),
        (b"x\\a\n", "plain name"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_unusable_lists_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"val\.txt.*{message}"):
        Dataset(tmp_path).names("val.txt")


def test_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test\.txt is missing"):
        Dataset(tmp_path).names("test.txt")


def test_written_volume_is_read_back(tmp_path: Path) -> None:
    geometry = Geometry((0.5, 1.0, 2.0), (-1.0, 2.0, 3.0), (0, 1, 0, 1, 0, 0, 0, 0, -1), known=True)
    dataset = Dataset(tmp_path)
    write_volume(dataset.path("a"), Volume("a", IMAGE, LABEL.astype(np.int64), geometry, source="scan.nii"))
    volume = dataset.load("a")
    assert volume.name == "a"
    assert (volume.image.dtype, volume.label.dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(volume.image, IMAGE)
    np.testing.assert_array_equal(volume.label, LABEL)
    assert volume.geometry == geometry
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["a.h5"]
    with h5py.File(dataset.path("a")) as file:
        assert file["image"].dtype == np.int16
        assert file.attrs["source"] == "scan.nii"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_volume(path, Volume("a", IMAGE))
    before = path.read_bytes()
    with pytest.raises((TypeError, ValueError)):
        write_volume(path, Volume("a", np.array([object()])))
    assert path.read_bytes() == before


def test_a_header_is_read_without_decoding_the_voxels(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((5, 4, 3), np.float32)
    geometry = Geometry((1.0, 2.0, 3.0), known=True)
    original = Grid((9, 8, 7), Geometry((0.5, 0.5, 0.5), known=True))
    write_volume(tmp_path / "data" / "a.h5", Volume("a", image, None, geometry, original, "scans/a.nrrd"))
    smear(tmp_path / "data" / "a.h5")  # decoding fails
    expected = VolumeHeader("a", Grid((5, 4, 3), geometry), original, "scans/a.nrrd")
    assert Dataset(tmp_path).header("a") == expected
    with pytest.raises(InputError, match="holds no 'volume'"):
        Dataset(tmp_path, "volume").header("a")


def test_label_and_geometry_may_be_missing(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path)
    write_volume(dataset.path("a"), Volume("a", IMAGE))
    volume = dataset.load("a")
    assert volume.label is None
    assert volume.geometry == Geometry()
    assert not volume.geometry.known


def test_image_key_and_binary_label(tmp_path: Path) -> None:
    write_raw(tmp_path, t1=IMAGE, label=LABEL)
    volume = Dataset(tmp_path, image_key="t1", binary_label=True).load("a")
    np.testing.assert_array_equal(volume.image, IMAGE)
    np.testing.assert_array_equal(volume.label, LABEL > 0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"t1": IMAGE, "label": LABEL}, "no 'image' .it holds label, t1"),
        ({}, "it holds nothing"),
        ({"image": IMAGE[0]}, "'image' must be one 3-D array"),
        ({"image/x": IMAGE}, "'image' must be one 3-D array"),
        ({"image": IMAGE[:0]}, "'image' is empty"),
        ({"image": IMAGE.astype("S3")}, "'image' must hold numbers"),
        ({"image": IMAGE, "label": LABEL[1:]}, r"image has shape \(2, 3, 4\) and label \(1, 3, 4\)"),
        ({"image": IMAGE, "label": LABEL - 0.5}, "label values must be whole numbers"),
        ({"image": IMAGE, "label": LABEL.astype(int) - 1}, "label values must be whole numbers"),
        ({"image": IMAGE, "label": LABEL + np.nan}, "label values must be whole numbers"),
    ],
)
def test_unusable_files_are_named(arrays: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"a\.h5.*{message}"):
        write_raw(tmp_path, **arrays).load("a")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spacing", (1.0, 2.0)),
        ("spacing", (1.0, 0.0, 1.0)),
        ("spacing", (1.0, np.nan, 1.0)),
        ("spacing", "mm"),
        ("origin", 5.0),
        ("direction", (1.0, 0.0, 0.0)),
    ],
)
def test_unusable_attributes_are_named(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"a\.h5: attribute '{key}'"):
        write_raw(tmp_path, {key: value}, image=IMAGE).load("a")


def test_direction_may_be_a_matrix(tmp_path: Path) -> None:
    direction = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
    volume = write_raw(tmp_path, {"direction": direction, "spacing": (1, 2, 3)}, image=IMAGE).load("a")
    assert volume.geometry == Geometry((1.0, 2.0, 3.0), direction=tuple(direction.ravel()), known=True)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    dataset = write_raw(tmp_path, image=IMAGE)
    with pytest.raises(InputError, match=r"b\.h5 is missing.*take b out of the lists"):
        dataset.load("b")
    dataset.path("a").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"a\.h5 cannot be read as HDF5"):
        dataset.load("a")


def test_content_hash_tells_values_shapes_and_types_apart() -> None:
    other = IMAGE.copy()
    other[1, 2, 3] += 1
    variants = [IMAGE, other, IMAGE.reshape(3, 2, 4), IMAGE.astype(np.uint16), IMAGE.transpose(0, 2, 1)]
    assert len({content_hash(array) for array in variants}) == len(variants)
    assert content_hash(IMAGE) == content_hash(np.asfortranarray(IMAGE))
