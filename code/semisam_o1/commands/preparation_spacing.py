"""``--spacing auto``: a spacing that suits the scans, the template's foreground and the machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from semisam_o1.core.device import resolve_device
from semisam_o1.core.memory import available_memory
from semisam_o1.data.dataset.volumes import Grid
from semisam_o1.data.preparation.formats import open_header
from semisam_o1.data.preparation.grid import reoriented
from semisam_o1.data.preparation.scans import read_and_prepare
from semisam_o1.data.preparation.settings import Preparation
from semisam_o1.data.preparation.sources import FoundScans, ScanFiles
from semisam_o1.plan.facts import Machine, Scans, Template
from semisam_o1.plan.grid import Spacing, working_spacing

SAME = 0.01  # relative difference between spacings that are taken as one


def choose_spacing(
    found: FoundScans, settings: Preparation, source_spacing: Sequence[float], template: str | None
) -> tuple[Spacing | None, str]:
    """Return the spacing to resample to (None: none is needed) and a sentence on why.

    Args:
        settings: all others of the preparation.
        source_spacing: mm, of scans that do not state theirs.
        template: name of the labeled scan; None: there is no label yet.

    Raises:
        InputError: if the template, or the first scan, cannot be used.
    """
    first = found.scans[template] if template is not None else next(iter(found.scans.values()))
    as_it_is = dataclasses.replace(settings, spacing=None)
    _, volume = read_and_prepare(first, as_it_is, source_spacing)
    grids = [volume.grid]
    if settings.crop is None:  # else the size of the others is not known before they are read
        grids += [grid for scan in found.scans.values() if scan is not first and (grid := _grid(scan, as_it_is))]
    labeled = volume.label is not None and volume.label.any()
    classes = int(volume.label.max()) + 1 if labeled else 0
    scans = Scans.of(grids, Template.of(volume.label, classes) if labeled else None)
    machine = Machine(resolve_device("auto").type == "cuda", available_memory(), 1)
    spacing, reason = working_spacing(scans, machine)
    text = f"spacing: {' × '.join(f'{side:g}' for side in spacing)} mm, {reason}"
    spacings = np.array([grid.geometry.spacing for grid in grids])
    return (None if np.allclose(spacings, spacing, rtol=SAME) else spacing), text


def _grid(scan: ScanFiles, settings: Preparation) -> Grid | None:
    """Return the grid of a scan by its header, None where that says too little: of DICOM series and public copies."""
    if scan.image.is_dir() or scan.image.suffix == ".h5":
        return None
    grid = open_header(scan.image, settings.channel)[1]
    return grid if settings.orientation == "keep" else reoriented(grid, settings.orientation)
