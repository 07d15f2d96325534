"""Trained runs from Python: ``load_run("mine").predict("scan.nii.gz")``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from semisam_o1.commands.export import to_original_grid
from semisam_o1.commands.incoming import NetworkInput, find_scans, network_input
from semisam_o1.commands.trained import LoadedModel, TrainedConfig, load_model
from semisam_o1.core.device import resolve_device
from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Geometry, Volume


@dataclass(frozen=True)
class Segmentation:
    """The segmentation of one scan, on the scan's own grid."""

    label: np.ndarray  # uint8 (W, H, D)
    probabilities: np.ndarray  # of every class, float32 (C, W, H, D)
    geometry: Geometry  # spacing (mm), origin (mm) and direction of the scan
    warnings: tuple[str, ...]  # what is unlike the scans that the run was trained on
    expected_dice: tuple[float, ...]  # per foreground class, estimated without a true label


@dataclass(frozen=True)
class TrainedRun:
    """A trained run, ready to segment."""

    model: LoadedModel[TrainedConfig]
    network: NetworkInput

    def predict(self, scan: str | Path | np.ndarray, geometry: Geometry | None = None) -> Segmentation:
        """Segment one scan.

        Args:
            scan: an image file, a folder with one DICOM series, or an image (W, H, D), axes x, y, z.
            geometry: of an image given as an array; without it, the image counts as lying like the training volumes,
                with their spacing.

        Raises:
            InputError: if the scan cannot be read or used.
        """
        if isinstance(scan, np.ndarray):
            if scan.ndim != 3 or not np.isfinite(scan).all():
                raise InputError(f"an image must be a finite array (W, H, D), this one has shape {scan.shape}")
            network = self.network if geometry is not None else self._as_trained()
            image = Volume("array", scan.astype(np.float32), None, geometry or self._usual_geometry())
            volume, warnings = network.prepare(image)
        else:
            found = find_scans([Path(scan).expanduser()])
            if len(found) != 1:
                raise InputError(f"{scan} holds {len(found)} scans; predict them one by one")
            volume, warnings = self.network.read(found[0])
        on_grid, expected = self.model.predict(volume)
        probabilities, geometry = to_original_grid(on_grid, volume), (volume.original or volume.grid).geometry
        return Segmentation(self.model.label_map(probabilities), probabilities, geometry, tuple(warnings), expected)

    def _as_trained(self) -> NetworkInput:
        """Return how an image is treated that lies on the network's grid already: its values alone are normalized."""
        return replace(self.network, preparation=replace(self.network.preparation, orientation="keep", spacing=None))

    def _usual_geometry(self) -> Geometry:
        seen = self.network.seen
        spacing = self.network.preparation.spacing or (
            seen and seen.spacing and [middle for _, middle, _ in seen.spacing]
        )
        return Geometry(tuple(spacing)) if spacing else Geometry()


def load_run(exp: str, backbone: str | None = None, device: str = "auto", **settings: Any) -> TrainedRun:
    """Load the best network of a run.

    Args:
        exp: name of the experiment, or a folder below model/.
        backbone: which run of the experiment, where several were trained.
        device: 'auto', 'cuda' or 'cpu'.
        settings: other fields of ``TrainedConfig``, such as ``ckpt`` or ``stride_xy``.

    Raises:
        InputError: if there is no such run.
    """
    config = TrainedConfig(exp=exp, backbone=backbone, device=device, **settings)
    model = load_model(config, resolve_device(device))
    return TrainedRun(model, network_input(model))
