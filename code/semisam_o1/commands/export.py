"""Image files on the original grid of a scan, and the labels of a run's cohort exported as such files."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from semisam_o1.commands.trained import describe_best
from semisam_o1.core.atomic_io import replacing
from semisam_o1.core.errors import InputError, listed
from semisam_o1.core.progress import progress
from semisam_o1.data.dataset.volumes import Geometry, Volume
from semisam_o1.data.preparation.formats import SUFFIXES, stem
from semisam_o1.data.preparation.grid import resample, resample_label
from semisam_o1.runs.records import best_round, open_round
from semisam_o1.runs.results import RunResults

# Formats with a separate data file are written in their single-file form.
SINGLE_FILE = {".nhdr": ".nrrd", ".mhd": ".mha"}


def write_image(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write one volume as NIfTI, NRRD or MetaImage, completely or not at all.

    Args:
        path: its suffix selects the format; a missing folder is created.
        array: (W, H, D), axes x, y, z; the type is kept (uint8 for labels, float32 for images).

    Raises:
        WriteError: if the file cannot be written.
    """
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))  # SimpleITK's arrays are (z, y, x)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    with replacing(path, keep_suffix=True) as partial:
        try:
            sitk.WriteImage(image, str(partial), useCompression=True)
            written = sitk.GetArrayFromImage(sitk.ReadImage(str(partial)))  # NIfTI is cut off without an error
        except RuntimeError as error:
            raise OSError(errno.EIO, f"{str(error).splitlines()[-1]}; the disk may be full") from error
        if not np.array_equal(written.transpose(2, 1, 0), array, equal_nan=True):
            raise OSError(errno.EIO, "the written file is incomplete; the disk may be full")


def export_path(folder: Path, name: str, source: str | Path | None, kind: str = "") -> Path:
    """Return the file for a scan and a kind of map, in the format of its source (NIfTI where that is DICOM or None)."""
    suffix = next((suffix for suffix in SUFFIXES if str(source or "").lower().endswith(suffix)), ".nii.gz")
    return folder / f"{stem(Path(name)) or name}{kind and '_'}{kind}{SINGLE_FILE.get(suffix, suffix)}"


def check_outputs(paths: Sequence[Path], flag: str, overwrite: bool) -> None:
    """Check that files can be written to the folder that a flag names.

    Raises:
        InputError: if the folder is a file, or, without ``overwrite``, if any of the files exists.
    """
    folder = paths[0].parent
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{flag} {folder} is a file; name a folder")
    existing = [path.name for path in paths if path.exists()]
    if existing and not overwrite:
        raise InputError(f"{folder} already holds {listed(existing)}; name another {flag}, or --overwrite")


def to_original_grid(probabilities: np.ndarray, volume: Volume) -> np.ndarray:
    """Resample class probabilities (C, w, h, d) of a prepared volume to the grid of the scan's file, (C, W, H, D).

    Voxels outside of the prepared volume are background with probability 1.
    """
    original = volume.original or volume.grid
    result = resample(probabilities.astype(np.float32, copy=False), volume.grid, original, outside=-1)
    outside = result[0] < 0
    result[:, outside] = 0
    result[0, outside] = 1
    return result


def export_cohort(run: RunResults, root: Path | None, folder: Path, overwrite: bool = False) -> list[Path]:
    """Write the labels of all scans of train.txt after the run's best round, the user's own labels among them.

    Args:
        root: dataset folder, None for the one that the run was trained on.

    Raises:
        InputError: if labels and scans cannot be read or do not belong together; no file was written then.
    """
    dataset = replace(run.dataset, root=root) if root else run.dataset
    names = dataset.names("train.txt")
    with open_round(run.folder.pseudo_labels(best_round(run.records).round)) as labels:
        missing = [name for name in names if name not in labels.names]
        if missing:
            changed = f"{dataset.root / 'train.txt'} changed since the run. Restore it, or train again"
            raise InputError(f"{labels.path} holds no label of {listed(missing)}; {changed}")
        headers = [dataset.header(name) for name in progress(names, "reading")]
        paths = [export_path(folder, header.name, header.source) for header in headers]
        check_outputs(paths, "--out", overwrite)
        for header, path in zip(progress(headers, "exporting"), paths, strict=True):
            label, original = labels.label(header.name), header.original or header.grid
            if label.shape != header.grid.size:
                raise InputError(
                    f"{labels.path}: the label of {header.name} has shape {label.shape}, its volume "
                    f"{header.grid.size}; the scans were prepared again since the run, so train again"
                )
            write_image(path, resample_label(label, header.grid, original), original.geometry)
    own = run.arguments["labeled_num"]
    print(f"{labels.path}: {describe_best(run.records)}; the labels of {len(paths)} scans, {own} of them your own")
    return paths
