"""The mask that a user drew of a scan of a dataset, as classes on the grid of the scan's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from semisam_o1.core.errors import InputError, listed
from semisam_o1.data.dataset.volumes import Grid, Volume, VolumeHeader
from semisam_o1.data.preparation.masks import read_mask
from semisam_o1.data.preparation.scans import filled, remap
from semisam_o1.data.preparation.segmentation import read_segments, values_of_names
from semisam_o1.data.preparation.settings import Classes, Preparation
from semisam_o1.data.preparation.sources import ScanFiles


def read_own_mask(
    scan: VolumeHeader | Volume, mask: Path, original: Grid, settings: Preparation, classes: Classes
) -> np.ndarray:
    """Return a mask (W, H, D) uint8 on the grid of the scan's file, with the slices between drawn ones filled.

    Args:
        original: grid of the scan's file.
        settings, classes: of the preparation of the dataset.

    Raises:
        InputError: if the mask cannot be used.
    """
    source = Path(scan.source or "")
    source = source if source.is_file() else Path(f"{scan.name}.h5")
    files = ScanFiles(scan.name, source, mask, segments=segment_values(mask, classes))
    label = remap(read_mask(files, original, settings.label_slices), settings)
    return filled(label, Volume(scan.name, np.empty(original.size, np.uint8), label, original.geometry), settings)


def segment_values(mask: Path, classes: Classes) -> dict[str, int] | None:
    """Return the class of every named segment of a mask, None for a mask without names.

    Raises:
        InputError: if a name is none of the dataset's.
    """
    segments = read_segments(mask) if mask.is_file() else ()
    if not segments:
        return None
    values = {name: c for c, name in classes.names.items()} or values_of_names([segments])
    if unknown := [segment.name for segment in segments if segment.name not in values]:
        raise InputError(f"{mask} has the segments {listed(unknown)}, the dataset has {listed(values)}; rename them")
    return values
