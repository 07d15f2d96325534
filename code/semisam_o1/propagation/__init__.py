"""Round 0: the template's label spread over the cohort, by the ways that ``--propagation`` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from semisam_o1.data.dataset.prediction import Prediction, to_prediction
from semisam_o1.data.sampling.fields import resize
from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.propagation.cohort import CohortAtlas
from semisam_o1.propagation.prototype import class_prototypes, propagate

Share = Callable[[Callable[[str], Prediction], Sequence[str], str], list[Prediction]]
"""(work, names, what it is called) → work of every name: shared out over processes, with progress shown."""


@dataclass(frozen=True)
class Templates:
    """What the labels are spread from, and how the volumes are looked up.

    Attributes:
        names: of the labeled volumes.
        label: name → (W, H, D) uint8, of the labeled ones.
        shape: name → (W, H, D).
        features: of all volumes.
        atlas: makes the cohort's atlas; called where it is needed only.
        share: sees to it that all volumes are labeled.
        warn: tells the user what will not go well.
    """

    names: Sequence[str]
    label: Callable[[str], np.ndarray]
    shape: Callable[[str], tuple[int, int, int]]
    features: Mapping[str, VolumeFeatures]
    num_classes: int
    atlas: Callable[[], CohortAtlas]
    share: Share
    warn: Callable[[str], None] = print


def by_prototype(templates: Templates, names: Sequence[str]) -> list[Prediction]:
    features = templates.features
    prototypes = class_prototypes(
        [(features[name].spatial, templates.label(name), features[name].patch_size) for name in templates.names],
        templates.num_classes,
    )

    absent = [str(c) for c in range(1, templates.num_classes) if not prototypes[c].any()]
    if absent:
        templates.warn(
            f"warning: the template's class {', '.join(absent)} covers no cell of the feature grid and cannot be "
            "spread; --propagation atlas works voxel by voxel"
        )

    def label(name: str) -> Prediction:
        return Prediction(
            propagate(features[name].spatial, prototypes, features[name].patch_size, templates.shape(name))
        )

    return templates.share(label, names, "round 0")


def by_atlas(templates: Templates, names: Sequence[str]) -> list[Prediction]:
    atlas = templates.atlas()
    gains = templates.share(lambda name: atlas.placed(name).gain, names, "registration")
    kept = [name for name, gain in zip(names, gains, strict=True) if gain == 0]
    if kept and atlas.atlas.registered:
        templates.warn(f"registration did not better the alignment of {', '.join(kept)}, which is kept as it was")

    def label(name: str) -> Prediction:
        return to_prediction(resize(torch.from_numpy(atlas.consensus(name)), templates.shape(name)))

    return templates.share(label, names, "round 0")


PROPAGATIONS: dict[str, Callable[[Templates, Sequence[str]], list[Prediction]]] = {
    "prototype": by_prototype,
    "atlas": by_atlas,
}
