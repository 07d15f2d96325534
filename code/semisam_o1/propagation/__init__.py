"""Round 0: the template's label spread over the cohort, by the ways that ``--propagation`` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..features.extract import VolumeFeatures
from .atlas import AtlasPropagation
from .prototype import class_prototypes, propagate

Labeller = Callable[[str], np.ndarray]  # name of a volume → pseudo-label uint8 (W, H, D)


@dataclass(frozen=True)
class Templates:
    """What the labels are spread from, and how the volumes are looked up.

    Attributes:
        names: of the labelled volumes.
        image: name → (W, H, D) float32, of any volume.
        label: name → (W, H, D) uint8, of the labelled ones.
        shape: name → (W, H, D).
        features: of all volumes.
        warn: tells the user what will not go well.
    """

    names: Sequence[str]
    image: Callable[[str], np.ndarray]
    label: Callable[[str], np.ndarray]
    shape: Callable[[str], tuple[int, int, int]]
    features: Mapping[str, VolumeFeatures]
    num_classes: int
    warn: Callable[[str], None] = print


def by_prototype(templates: Templates) -> Labeller:
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

    def label(name: str) -> np.ndarray:
        return propagate(features[name].spatial, prototypes, features[name].patch_size, templates.shape(name))

    return label


def by_atlas(templates: Templates) -> Labeller:
    labelled = [(templates.image(name), templates.label(name)) for name in templates.names]
    atlas = AtlasPropagation(labelled, templates.num_classes)
    return lambda name: atlas.label(templates.image(name))


PROPAGATIONS: dict[str, Callable[[Templates], Labeller]] = {"prototype": by_prototype, "atlas": by_atlas}
