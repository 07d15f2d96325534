"""Small image files in the formats and layouts that people have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from semisam_o1.data.preparation.formats import own_locale

SHAPE = (9, 8, 7)
TURNED_SHAPE = (6, 7, 8)
TURNED_DIRECTION = (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 500, SHAPE).astype(np.int16)


def write(path: Path, array: np.ndarray) -> None:
    """Write (W, H, D) or (W, H, D, channels) in the format that the name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if array.ndim == 4:
        image = sitk.JoinSeries(
            [sitk.GetImageFromArray(np.ascontiguousarray(part.T)) for part in np.moveaxis(array, 3, 0)]
        )
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    sitk.WriteImage(image, str(path))


def write_segmentation(
    path: Path, label: np.ndarray, segments: list[tuple[str, object, object]], start: tuple[int, ...] = (0, 0, 0)
) -> None:
    """Write (W, H, D) or (W, H, D, layers) as 3D Slicer does.

    Args:
        segments: name, label value and layer of each.
        start: first voxel of the image that the array covers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.ascontiguousarray(np.swapaxes(label, 0, 2).astype(np.uint8))
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    image.SetOrigin([float(value) for value in start])
    for i, values in enumerate(segments):
        for field, value in zip(("Name", "LabelValue", "Layer"), values, strict=True):
            image.SetMetaData(f"Segment{i}_{field}", str(value))
    sitk.WriteImage(image, str(path))


def turned_scan(seed: int) -> np.ndarray:
    """Return an image (6, 7, 8) of small positive numbers."""
    return np.random.default_rng(seed).gamma(2.0, 100.0, TURNED_SHAPE).astype(np.float32)


def write_turned(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (0.5, 1.0, 2.5)) -> None:
    """Write (W, H, D), with axes that point elsewhere in the patient, in the format that the name asks for."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing)
    image.SetOrigin((1.0, -2.0, 3.5))
    image.SetDirection(TURNED_DIRECTION)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def make_cohort(folder: Path, count: int, labeled: int) -> tuple[Path, Path]:
    """Write turned scans s0, s1, … of which the first ``labeled`` have a label; return the two folders."""
    for index in range(count):
        image = turned_scan(index)
        write_turned(folder / "images" / f"s{index}.nii.gz", image)
        if index < labeled:
            write_turned(folder / "labels" / f"s{index}.nii.gz", (image > 200).astype(np.uint8))
    return folder / "images", folder / "labels"


@own_locale()
def write_dicom(folder: Path, array: np.ndarray, uid: str = "1.2.3.4", skip: int | None = None) -> None:
    """Write a series with a slice per file, 2 mm apart, numbered against their order in space."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(array.shape[2]):
        if k == skip:
            continue
        image = sitk.GetImageFromArray(np.ascontiguousarray(array[..., k : k + 1].T))
        image.SetSpacing((0.7, 0.7, 2.0))
        tags = {
            "0008|0060": "CT", "0020|000e": uid, "0020|000d": "1.2.3", "0008|0018": f"{uid}.{k}", "0018|0050": "2",
            "0020|0032": f"-5\\10\\{30 + 2 * k}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(99 - k),
        }  # fmt: skip
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"slice{99 - k}_{uid}.dcm"))
        writer.Execute(image)


def make_decathlon(folder: Path, channels: int) -> None:
    for index in range(4):
        stack = np.stack([scan(10 * index + c) for c in range(channels)], axis=3)
        part = "imagesTs" if index == 3 else "imagesTr"
        write(folder / part / f"case_{index}.nii.gz", stack if channels > 1 else stack[..., 0])
        if index < 3:
            write(folder / "labelsTr" / f"case_{index}.nii.gz", (scan(index) % 3).astype(np.uint8))
    pairs = [{"image": f"./imagesTr/case_{i}.nii.gz", "label": f"./labelsTr/case_{i}.nii.gz"} for i in range(3)]
    described = {
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": pairs,
        "test": ["./imagesTs/case_3.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(described))
