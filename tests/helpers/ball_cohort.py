"""A cohort of four scans that show two balls, and its atlas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from balls import scan
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.volumes import Geometry
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.preflight.inspection import VolumeInfo
from semisam_o1.features.builtin import BuiltinFeatures
from semisam_o1.features.extract import CohortAccess, VolumeFeatures
from semisam_o1.propagation.cohort import CohortAtlas

SCANS = {
    "template": scan(),
    "a": scan((28, 28, 22), shift=(1, 2, 0), seed=1),
    "b": scan((26, 30, 24), shift=(-2, 0, 1), seed=2),
    "c": scan((25, 31, 22), shift=(0, -2, 1), seed=3),
}


class Store:
    """A store of the scans above."""

    device = torch.device("cpu")

    def image(self, name: str) -> torch.Tensor:
        return torch.from_numpy(SCANS[name][0])

    def label(self, name: str) -> torch.Tensor:
        return torch.from_numpy(SCANS[name][1])


def make_cohort(folder: Path, neighbors: int = 2, unlabeled: Sequence[str] = ("a", "b", "c")) -> CohortAtlas:
    """Return the atlas of a cohort; it knows the scans that are not ``unlabeled``, too."""
    features = {name: VolumeFeatures.of(image, BuiltinFeatures()) for name, (image, _) in SCANS.items()}
    info = {name: VolumeInfo(name, image.shape, f"key-{name}", None, Geometry()) for name, (image, _) in SCANS.items()}
    access = CohortAccess(
        Cohort(("template",), tuple(unlabeled), (), info), Store(), features, "builtin", num_classes=3
    )
    return CohortAtlas(access, ArrayCache(folder), neighbors)
