"""A run folder made by hand, and a network that stands in for a trained one: it segments by a threshold."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import SimpleITK as sitk
import torch

from semisam_o1.data.preparation.settings import Preparation
from semisam_o1.networks import build_network

SEEN = {
    "spacing": [[1.0, 1.0, 1.0]] * 3,
    "size": [[30, 40]] * 3,
    "intensity": [-1.0, 4.0],
    "orientations": ["RAS"],
}


class Threshold:
    """Foreground is what is brighter than the middle of the range; remembers the shapes that it was given."""

    device = torch.device("cpu")
    precision = "fp32"
    bias, zooms = None, (1.0,)
    shapes: ClassVar[list[tuple[int, ...]]] = []

    def __init__(self, *_: object):
        pass

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        Threshold.shapes.append(tuple(volume.shape))
        foreground = torch.sigmoid(8 * (volume - volume.min() - (volume.max() - volume.min()) / 2))
        return torch.stack([1 - foreground, foreground])


def write_run(folder: Path, scans: dict[str, Any] | None = SEEN, **arguments: Any) -> Path:
    """Write args.json and the weights of a network that nobody trained; return the run folder."""
    run = folder / "run_MT_1label_1" / "unet_3D"
    run.mkdir(parents=True)
    settings = {"root_path": str(folder / "gone"), "num_classes": 2, "patch_size": [32, 32, 32], **arguments}
    content = {"arguments": settings, "preparation": dataclasses.asdict(Preparation())}
    (run / "args.json").write_text(json.dumps(content if scans is None else content | {"scans": scans}))
    torch.save(build_network("unet_3D", 2).state_dict(), run / "unet_3D_best_model.pth")
    return run


def write_ball(path: Path, spacing: float = 1.0, extent: float = 36.0) -> np.ndarray:
    """Write a bright ball, 8 mm off the center, on a grid of this spacing (mm); return its mask (W, H, D)."""
    size = round(extent / spacing)
    places = (np.indices((size,) * 3) - (size - 1) / 2) * spacing
    mask = ((places - np.array([8.0, -4, 2]).reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < 9.0**2
    image = sitk.GetImageFromArray(np.ascontiguousarray(mask.T).astype(np.float32) * 100)
    image.SetSpacing((spacing,) * 3)
    image.SetOrigin((-(size - 1) / 2 * spacing,) * 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return mask
