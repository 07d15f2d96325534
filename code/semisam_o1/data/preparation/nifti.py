"""What NIfTI headers say beyond what ITK passes on: two forms of the position, and voxels that ITK would change.

A header may state the position of the voxels twice (qform and sform). Programs choose differently between the two,
so a label is only in the right place for all of them if it states both as its image does.
"""

from __future__ import annotations

import gzip
import itertools
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Geometry

SUFFIXES = (".nii", ".nii.gz")
# https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h: name → (type, offset in bytes), by the length.
FIELDS = {
    348: {
        "dim": ("8i2", 40),
        "datatype": ("i2", 70),
        "bitpix": ("i2", 72),
        "pixdim": ("8f4", 76),
        "vox_offset": ("f4", 108),
        "qform_code": ("i2", 252),
        "sform_code": ("i2", 254),
        "quatern": ("3f4", 256),
        "qoffset": ("3f4", 268),
        "srow": ("(3,4)f4", 280),
    },
    540: {
        "dim": ("8i8", 16),
        "datatype": ("i2", 12),
        "bitpix": ("i2", 14),
        "pixdim": ("8f8", 104),
        "vox_offset": ("i8", 168),
        "qform_code": ("i4", 344),
        "sform_code": ("i4", 348),
        "quatern": ("3f8", 352),
        "qoffset": ("3f8", 376),
        "srow": ("(3,4)f8", 400),
    },
}
FORMS = ("qform_code", "sform_code", "quatern", "qoffset", "srow")
FLOATS = {16: "f4", 64: "f8"}  # the values of ``datatype`` that can be NaN
BLOCK = 1 << 20  # bytes
TO_ITK = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI's x and y point right and anterior, ITK's left and posterior
SAME_PLACE = 0.1  # of the shortest voxel edge; forms that differ less are one


def is_nifti(path: Path) -> bool:
    """Return whether a file's name has an ending of NIfTI."""
    return path.name.lower().endswith(SUFFIXES)


@contextmanager
def _content(path: Path) -> Iterator[BinaryIO]:
    """Yield the uncompressed bytes of a file."""
    with path.open("rb") as file:
        yield gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file


def read_header(path: Path) -> np.void | None:
    """Return the fields of FIELDS in the header of a NIfTI file, None where it has no such header."""
    try:
        with _content(path) as file:
            return _parse(file.read(max(FIELDS)))
    except (EOFError, OSError, zlib.error):
        return None


def _parse(start: bytes) -> np.void | None:
    for (length, fields), order in itertools.product(FIELDS.items(), "<>"):
        if len(start) >= length and start[:4] == np.array(length, f"{order}i4").tobytes():
            types = [_ordered(kind, order) for kind, _ in fields.values()]
            layout = {"names": list(fields), "formats": types, "offsets": [at for _, at in fields.values()]}
            return np.frombuffer(start[:length], np.dtype({**layout, "itemsize": length}))[0]
    return None


def _ordered(kind: str, order: str) -> np.dtype:
    return np.dtype(kind).newbyteorder(order)


def check_spacing(path: Path, header: np.void) -> None:
    """Refuse a header without a spacing: ITK would read 0 and infinity as 1 mm.

    Raises:
        InputError: if the spacing along x, y or z is not positive and finite.
    """
    spacing = np.abs(header["pixdim"][1:4].astype(float))
    if not ((spacing > 0) & (spacing < math.inf)).all():
        stated = " × ".join(f"{value:g}" for value in spacing)
        raise InputError(
            f"{path} states a spacing of {stated} mm; it must be positive and finite, so export the scan again"
        )


def check_voxels(path: Path, header: np.void) -> None:
    """Refuse a file that was cut off, or that holds values that are no numbers: ITK would read both as zeros.

    Raises:
        InputError: if the file ends too early, cannot be decompressed, or holds NaN or infinite values.
    """
    axes = header["dim"][1 : int(header["dim"][0]) + 1].astype(int)
    if not 0 <= header["vox_offset"] < math.inf:
        raise InputError(f"{path} says that its voxels begin at byte {header['vox_offset']:g}; export it again")
    offset = int(header["vox_offset"])
    expected = offset + int(np.prod(axes)) * int(header["bitpix"]) // 8
    kind = FLOATS.get(int(header["datatype"]))
    order = header.dtype["bitpix"].byteorder
    length, strange = 0, 0
    try:
        with _content(path) as file:
            length = len(file.read(offset))
            while block := file.read(BLOCK):
                length += len(block)
                if kind is not None:
                    whole = len(block) // np.dtype(kind).itemsize * np.dtype(kind).itemsize
                    strange += np.count_nonzero(~np.isfinite(np.frombuffer(block[:whole], _ordered(kind, order))))
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} is damaged or cut off ({error}); copy or download it again") from None
    if length < expected:
        raise InputError(f"{path} is cut off ({length} of {expected} bytes); copy or download it again")
    if strange:
        raise InputError(f"{path} holds {strange} values that are not finite (NaN or infinite); replace them")


def forms(header: np.void) -> dict[str, np.ndarray]:
    """Return the stated forms by name, 'qform' and 'sform': 4×4 matrices from voxels to ITK's coordinates in mm."""
    found = {}
    if header["qform_code"] > 0:
        b, c, d = header["quatern"].astype(float)
        a = np.sqrt(max(1 - b * b - c * c - d * d, 0))
        rotation = [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
        spacing = header["pixdim"][1:4].astype(float)
        handedness = np.array([1, 1, -1 if header["pixdim"][0] < 0 else 1])
        found["qform"] = TO_ITK @ _affine(np.array(rotation) * spacing * handedness, header["qoffset"])
    if header["sform_code"] > 0:
        found["sform"] = TO_ITK @ _affine(header["srow"][:, :3], header["srow"][:, 3])
    return found


def _affine(linear: np.ndarray, offset: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, offset
    return affine


def geometries(path: Path) -> list[Geometry]:
    """Return the geometry of every form that a NIfTI file states; none for other files."""
    header, found = read_header(path) if is_nifti(path) else None, []
    for affine in () if header is None else forms(header).values():
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.all():
            direction = (affine[:3, :3] / spacing).ravel()
            place = (tuple(values.tolist()) for values in (spacing, affine[:3, 3], direction))
            found.append(Geometry(*place, known=True))
    return found


def position_warning(path: Path) -> str | None:
    """Return a sentence where programs will disagree on the position of a NIfTI file, None where they will not."""
    header = read_header(path) if is_nifti(path) else None
    if header is None:
        return None
    stated = forms(header)
    if not stated:
        unknown = f"{path} states no position in the patient (neither qform nor sform)"
        return f"{unknown}: left and right may be swapped; compare with a viewer"
    if len(stated) == 1:
        return None
    size, spacing = header["dim"][1:4].astype(float), np.abs(header["pixdim"][1:4])
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, count - 1) for count in size))])
    apart = np.linalg.norm(corners @ (stated["qform"] - stated["sform"])[:3].T, axis=1).max()
    if apart <= SAME_PLACE * spacing.min():
        return None
    return f"{path} states two positions (qform and sform) that are up to {apart:.3g} mm apart; labels keep both"


def copy_forms(source: Path, target: Path) -> None:
    """Give a NIfTI file both forms of another one with the same voxels, in whose header they may differ.

    Args:
        source: any file; nothing happens if it is missing, no NIfTI, or has another number of voxels along an axis.
        target: NIfTI-1, replaced in place.
    """
    wanted = read_header(source) if is_nifti(source) and source.is_file() else None
    if wanted is None:
        return
    with _content(target) as file:
        content = bytearray(file.read())
    header = _parse(bytes(content[: max(FIELDS)]))
    if header is None or not np.array_equal(header["dim"][1:4], wanted["dim"][1:4]):
        return
    fields = FIELDS[header.dtype.itemsize]
    for name in FORMS:
        kind, at = fields[name]
        value = np.asarray(wanted[name]).astype(_ordered(kind, header.dtype["bitpix"].byteorder).base).tobytes()
        content[at : at + len(value)] = value
    at = fields["pixdim"][1]  # the first number is the handedness of the qform
    value = np.asarray(wanted["pixdim"][:1]).astype(header.dtype["pixdim"].base).tobytes()
    content[at : at + len(value)] = value
    compressed = target.read_bytes()[:2] == b"\x1f\x8b"
    target.write_bytes(gzip.compress(bytes(content), 6, mtime=0) if compressed else bytes(content))
