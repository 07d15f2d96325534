"""Voxel grids of scans and their attributes in HDF5 files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from semisam_o1.core.errors import InputError

GEOMETRY_KEYS = ("spacing", "origin", "direction")


@dataclass(frozen=True)
class Geometry:
    """Position of a volume in the patient, in ITK's convention (LPS, axes x, y, z)."""

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)  # mm
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)  # mm
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)  # row-major 3×3
    known: bool = False  # whether the file states a spacing


@dataclass(frozen=True)
class Grid:
    """Number of voxels along x, y, z and their position."""

    size: tuple[int, int, int]
    geometry: Geometry


def read_original(file: h5py.File, path: Path) -> Grid | None:
    """Return the grid of the file that a scan came from, None if it is not stated.

    Raises:
        InputError: if its attributes are malformed.
    """
    if "original_size" not in file.attrs:
        return None
    size = np.asarray(file.attrs["original_size"])
    if size.shape != (3,) or size.dtype.kind not in "iu" or size.min() < 1:
        raise InputError(f"{path}: attribute 'original_size' must be 3 positive whole numbers")
    return Grid(tuple(size.tolist()), read_geometry(file, path, "original_"))


def read_geometry(file: h5py.File, path: Path, prefix: str = "") -> Geometry:
    """Return the geometry that the attributes of a file state; ``prefix`` is that of their names.

    Raises:
        InputError: if an attribute is malformed.
    """
    known = f"{prefix}spacing" in file.attrs
    values = {}
    for key in GEOMETRY_KEYS:
        default = getattr(Geometry, key)
        raw = np.asarray(file.attrs.get(prefix + key, default))
        if raw.size != len(default) or raw.dtype.kind not in "iuf" or not np.isfinite(raw).all():
            raise InputError(f"{path}: attribute '{prefix}{key}' must be {len(default)} finite numbers")
        values[key] = tuple(float(value) for value in raw.ravel())
    if min(values["spacing"]) <= 0:
        raise InputError(f"{path}: attribute '{prefix}spacing' must be positive, it is {values['spacing']}")
    return Geometry(known=known, **values)


def write_geometry(file: h5py.File, geometry: Geometry, prefix: str = "") -> None:
    """Write a geometry as attributes, if it is known."""
    if geometry.known:
        for key in GEOMETRY_KEYS:
            file.attrs[prefix + key] = getattr(geometry, key)
