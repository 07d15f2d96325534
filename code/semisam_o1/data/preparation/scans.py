"""Scans read as their source has them, and the check that image and label lie on the same grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Grid, Volume, as_label
from semisam_o1.data.preparation.formats import open_header, read_image, times
from semisam_o1.data.preparation.settings import Preparation
from semisam_o1.data.preparation.sources import PUBLIC_FILE, ScanFiles
from semisam_o1.data.preparation.transform import prepare


class _PublicCopy(Dataset):
    """The layout of the public LA copy: ROOT/NAME/mri_norm2.h5."""

    def path(self, name: str) -> Path:
        return self.root / name / PUBLIC_FILE


def read_and_prepare(
    scan: ScanFiles, settings: Preparation, source_spacing: Sequence[float] | None = None
) -> tuple[Volume, Volume]:
    """Return one scan as its source has it, and prepared.

    Raises:
        InputError: if the image or the label cannot be used.
    """
    volume = read_scan(scan, settings.channel, source_spacing)
    try:
        return volume, prepare(volume, settings, scan.bounds)
    except ValueError as error:
        raise InputError(f"{scan.image} {error}; export it again or take it out") from None


def read_scan(scan: ScanFiles, channel: int | None = None, source_spacing: Sequence[float] | None = None) -> Volume:
    """Read one scan as its source has it; the label's values are as in the file.

    Args:
        channel: index of the channel to read, None for images that have one.
        source_spacing: mm, of scans that do not state theirs; None: it stays unknown.

    Raises:
        InputError: if the image or the label cannot be used.
    """
    source = str(scan.image.resolve())
    if scan.image.suffix == ".h5":
        volume = replace(_PublicCopy(scan.image.parent.parent).load(scan.name), source=source)
        if source_spacing is not None and not volume.geometry.known:
            volume = replace(volume, geometry=Geometry(tuple(source_spacing), known=True))
        return volume
    image, geometry = read_image(scan.image, channel)
    label = None
    if scan.label is not None:
        label, label_geometry = read_image(scan.label)
        if fault := _mismatch(scan, Grid(image.shape, geometry), Grid(label.shape, label_geometry)):
            raise InputError(fault)
        label = as_label(label, scan.label)
    return Volume(scan.name, image, label, geometry, source=source)


def header_faults(scan: ScanFiles, channel: int | None) -> list[str]:
    """Return what the headers of one scan show to be wrong; HDF5 and DICOM are only checked with the voxels."""
    if scan.image.suffix == ".h5" or scan.image.is_dir():
        return []
    grids, faults = [], []
    for path, which in ((scan.image, channel), (scan.label, None)):
        if path is not None:
            try:
                reader, geometry = open_header(path, which)
                grids.append(Grid(reader.GetSize()[:3], geometry))
            except InputError as error:
                faults.append(str(error))
    fault = _mismatch(scan, *grids) if len(grids) == 2 else None
    return [*faults, fault] if fault else faults


def _mismatch(scan: ScanFiles, image: Grid, label: Grid) -> str | None:
    """Return a sentence on how the grids of an image and its label differ, None where they do not."""
    if tuple(image.size) != tuple(label.size):
        sizes = f"{scan.image} has the size {times(image.size)} and its label {scan.label} {times(label.size)}"
        return f"{sizes}; they must be the same"
    one, other = image.geometry, label.geometry
    if np.allclose(one.spacing, other.spacing, rtol=1e-3, atol=0) and np.allclose(
        one.direction, other.direction, atol=1e-3
    ):
        return None
    # Of the same size, but turned, flipped or scaled: voxel by voxel the label lies on something else.
    return (
        f"{scan.image} and its label {scan.label} differ in spacing or direction; resample the label "
        "onto the image, or give it the image's header if their voxels match"
    )
