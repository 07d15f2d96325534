"""Scans to segment: found, read, brought to the grid of the network, and compared with those of the training run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from semisam_o1.commands.trained import LoadedModel
from semisam_o1.core.errors import InputError, listed, raise_faults
from semisam_o1.core.memory import available_memory
from semisam_o1.data.dataset.geometry import Grid
from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.data.preparation.formats import format_fault, read_image, stem, times
from semisam_o1.data.preparation.grid import reoriented
from semisam_o1.data.preparation.scans import header_warnings, prepare
from semisam_o1.data.preparation.settings import Preparation, read_preparation
from semisam_o1.data.preparation.sources import ScanFiles, find_folder
from semisam_o1.evaluation.sliding_window import floats_needed
from semisam_o1.runs.seen import ROUNDING, SeenScans

SIMILAR = 1.5  # times the size of the run's scans, up to which a volume without a spacing counts as having theirs
COARSE = 2.0  # times the spacing of the network, from which on there is a warning


@dataclass(frozen=True)
class NetworkInput:
    """How a scan becomes what the network was trained on.

    Attributes:
        preparation: settings of the training data.
        seen: what these were like; None where the run does not record it.
        origin: where the settings come from, as in 'scans are treated as the training data were'.
        floats: held per voxel of the network's grid, at most, while a scan is predicted.
        classes: of the network, with background.
    """

    preparation: Preparation
    seen: SeenScans | None
    origin: str
    floats: float = 0.0
    classes: int = 0

    @property
    def remark(self) -> str:
        """What is printed about the settings."""
        if self.preparation.spacing is None and (self.seen is None or self.seen.spacing is None):
            unknown = "the spacing that the network was trained on is not recorded, so scans keep their own"
            return f"scans are treated as {self.origin}; {unknown}"
        return f"scans are treated as {self.origin}"

    def read(self, scan: ScanFiles) -> tuple[Volume, list[str]]:
        """Read a scan and bring it to the network's grid; return it, and what is unlike the scans of the run.

        Raises:
            InputError: if the file cannot be read, or what it holds cannot be used.
        """
        image, geometry = read_image(scan.image, self.preparation.channel)
        volume = Volume(scan.name, image, None, geometry, source=str(scan.image.resolve()))
        prepared, oddities = self.prepare(volume, scan.bounds)
        return prepared, [*header_warnings(scan), *oddities]

    def prepare(self, volume: Volume, bounds: Sequence[int] | None = None) -> tuple[Volume, list[str]]:
        """Bring a volume, cropped to ``bounds``, to the network's grid; returns and raises as ``read``."""
        settings, oddities = self._on_grid(volume)
        try:
            prepared = prepare(volume, settings, bounds)
        except ValueError as error:
            raise InputError(f"{volume.source or volume.name} {error}; export it again or take it out") from None
        return prepared, [*oddities, *(self.seen.oddities(prepared) if self.seen else [])]

    def of_prepared(self) -> NetworkInput:
        """Return how volumes of a dataset are treated: their axes and spacing are changed, their values are prepared.

        One that states no spacing stays as it is.
        """
        return replace(self, preparation=replace(self.preparation, crop=None, intensity="keep", window=None))

    def fits(self, grid: Grid) -> bool:
        """Return whether a grid without a spacing can be that of the run's scans, by its size."""
        if self.seen is None or (self.preparation.spacing is None and self.seen.spacing is None):
            return True  # nothing is resampled then
        sizes = zip(grid.size, self.seen.size, strict=True)
        return all(low / SIMILAR <= size <= SIMILAR * high for size, (low, high) in sizes)

    def resamples(self, grid: Grid) -> bool:
        """Return whether the network sees a grid at another spacing than its own."""
        own, target = self._spacings(grid)
        return target is not None and not np.allclose(own, target, rtol=ROUNDING)

    def _spacings(self, grid: Grid) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
        """Return the spacing of a grid (mm, in the network's order of axes) and the network's, None where unknown."""
        keep = self.preparation.orientation == "keep"
        own = (grid if keep else reoriented(grid, self.preparation.orientation)).geometry.spacing
        return own, self.preparation.spacing or (self.seen and self.seen.spacing_for(own))

    def _on_grid(self, scan: Volume) -> tuple[Preparation, list[str]]:
        """Return the preparation of a scan with the spacing of the network, and what is odd about its own."""
        own, target = self._spacings(scan.grid)
        if target is None:
            return self.preparation, []
        voxels = scan.image.size * math.prod(own) / math.prod(target)
        # On the scan's own grid, there are the classes and their copy.
        if 4 * (self.floats * voxels + 2 * self.classes * scan.image.size) > available_memory():
            size = f"{scan.source} has {voxels:.3g} voxels at the {_mm(target)} of the network"
            raise InputError(f"{size}, more than fit into memory; crop the scan, or check its spacing")
        odd = []
        if self.preparation.spacing is None and tuple(target) != tuple(own):
            odd.append(f"its spacing of {_mm(own)} is outside of the run's; it is predicted at {_mm(target)}")
        elif any(a >= COARSE * b for a, b in zip(own, target, strict=True)):
            odd.append(f"its spacing of {_mm(own)} is much coarser than the {_mm(target)} it is predicted at")
        return replace(self.preparation, spacing=tuple(target)), odd


def _mm(spacing: Iterable[float]) -> str:
    return f"{times(f'{value:.4g}' for value in spacing)} mm"


def network_input(model: LoadedModel[Any], preparation: Path | None = None) -> NetworkInput:
    """Return how scans are treated: as the training data were, or as a file says.

    Args:
        preparation: the file that ``--preparation`` names, None for that of the run.

    Raises:
        InputError: if the settings cannot be used.
    """
    trained, classes = model.trained, model.config.num_classes
    needs = {"floats": floats_needed(classes, model.predictor.zooms), "classes": classes}
    where = trained.described_in
    seen = None if trained.scans is None else SeenScans.from_json(trained.scans, where)
    if preparation is not None:
        settings = read_preparation(preparation)
        if settings is None:
            missing = f"--preparation {preparation} is missing"
            raise InputError(f"{missing}; prepare_data.py writes it into the dataset folder")
        return NetworkInput(settings, seen, f"{preparation} says", **needs)
    if trained.preparation is not None:
        settings = Preparation.from_json(trained.preparation, where)
        return NetworkInput(settings, seen, "the training data were", **needs)
    root = trained.arguments.get("root_path")
    if root and (settings := read_preparation(Path(root))) is not None:
        return NetworkInput(settings, seen, f"the training data in {root} were", **needs)
    unknown = "they lie, with z-scores: how the training data were prepared is not known (--preparation says it)"
    return NetworkInput(Preparation(orientation="keep"), seen, unknown, **needs)


def find_scans(paths: Iterable[Path]) -> list[ScanFiles]:
    """Return the scans in files and folders.

    Raises:
        InputError: listing the paths that hold none, and names that two scans have.
    """
    scans: dict[str, ScanFiles] = {}
    faults = []
    for path in paths:
        try:
            found = _scans_at(path)
        except InputError as error:
            faults.append(str(error))
            continue
        if twice := sorted(found.keys() & scans.keys()):
            faults.append(f"--scans names {listed(twice)} twice; predict them into folders of their own")
        scans |= found
    raise_faults(faults, "paths of --scans cannot be used")
    return list(scans.values())


def _scans_at(path: Path) -> dict[str, ScanFiles]:
    """Return the scans at a path by name."""
    if not path.exists():
        raise InputError(f"--scans {path} is missing")
    if path.is_dir():
        return find_folder(path).scans
    if (name := stem(path)) is None:
        raise InputError(format_fault(path))
    return {name: ScanFiles(name, path)}
