"""What the scans of a run were like: recorded with it, so that a prediction can bring other scans to their grid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.data.preflight.inspection import VolumeInfo
from semisam_o1.data.preparation.grid import orientation_of

SIZE_RATIO = 2.0  # to the smallest and the largest scan of the run, from which on there is a warning
INTENSITY_MARGIN = 0.5  # of the run's range of intensities, by which a scan may exceed it without a warning
ROUNDING = 1e-3  # relative difference of spacings that are the same


@dataclass(frozen=True)
class SeenScans:
    """Ranges over the prepared training scans of a run.

    Attributes:
        spacing: (lowest, median, highest) in mm of each axis; None where a scan does not state its spacing.
        size: (lowest, highest) number of voxels of each axis.
        intensity: lowest and highest value of any scan; None where it is not known.
        orientations: what the axes point towards, such as RAS; empty where it is not known.
    """

    spacing: tuple[tuple[float, float, float], ...] | None
    size: tuple[tuple[int, int], ...]
    intensity: tuple[float, float] | None = None
    orientations: tuple[str, ...] = ()

    @classmethod
    def of(cls, scans: Iterable[VolumeInfo]) -> SeenScans:
        scans = list(scans)
        known = all(scan.geometry.known for scan in scans)
        spacings, sizes = (
            np.array(values) for values in zip(*((s.geometry.spacing, s.shape) for s in scans), strict=True)
        )
        ranges = np.stack([spacings.min(axis=0), np.median(spacings, axis=0), spacings.max(axis=0)], axis=1)
        intensities = [scan.intensity for scan in scans if scan.intensity is not None]
        return cls(
            tuple(map(tuple, ranges.tolist())) if known else None,
            tuple(zip(sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist(), strict=True)),
            (min(low for low, _ in intensities), max(high for _, high in intensities)) if intensities else None,
            tuple(sorted({orientation_of(scan.geometry) for scan in scans})) if known else (),
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> SeenScans:
        """Take back what ``to_json`` returned.

        Raises:
            InputError: naming ``where`` it stood, if it is something else.
        """
        try:
            spacing, size, intensity = content["spacing"], content["size"], content["intensity"]
            seen = cls(
                None if spacing is None else tuple(tuple(map(float, axis)) for axis in spacing),
                tuple((int(low), int(high)) for low, high in size),
                None if intensity is None else (float(intensity[0]), float(intensity[1])),
                tuple(map(str, content["orientations"])),
            )
            sound = seen.spacing is None or all(
                0 < low <= middle <= high < math.inf for low, middle, high in seen.spacing
            )
            if not sound or len(seen.size) != 3 or (seen.spacing is not None and len(seen.spacing) != 3):
                raise ValueError("a range is none")
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"{where}: its entry 'scans' was changed ({error!r}); restore the file") from None
        return seen

    def spacing_for(self, spacing: Iterable[float]) -> tuple[float, ...] | None:
        """Return the spacing (mm) on which the network sees a scan of this spacing; None where it is not known.

        An axis within the range of the run stays as it is, as in training; of another the median is taken.
        """
        if self.spacing is None:
            return None
        return tuple(
            own if low * (1 - ROUNDING) <= own <= high * (1 + ROUNDING) else middle
            for own, (low, middle, high) in zip(spacing, self.spacing, strict=True)
        )

    def oddities(self, scan: Volume) -> list[str]:
        """Return how a prepared scan differs from those of the run, a phrase each: in size, intensity, axes."""
        found = []
        own = tuple(scan.image.shape)
        if any(n * SIZE_RATIO < low or n > SIZE_RATIO * high for n, (low, high) in zip(own, self.size, strict=True)):
            sizes = " × ".join(f"{low}–{high}" if low < high else str(low) for low, high in self.size)
            found.append(f"its size of {' × '.join(map(str, own))} voxels is far from the run's {sizes}")
        if self.intensity is not None:
            (low, high), (least, most) = self.intensity, (float(scan.image.min()), float(scan.image.max()))
            margin = INTENSITY_MARGIN * (high - low)
            if least < low - margin or most > high + margin:
                found.append(f"its values from {least:.3g} to {most:.3g} exceed the run's {low:.3g} to {high:.3g}")
        orientation = orientation_of(scan.geometry)
        if self.orientations and orientation not in self.orientations:
            found.append(
                f"its axes point towards {orientation}, those of the run towards {', '.join(self.orientations)}"
            )
        return found
