"""Round 0: propagation of the templates' labels to the cohort, by the names that ``--propagation`` takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from semisam_o1.core.distributed import cpu_threads, share_out
from semisam_o1.core.terminal import ProgressFn
from semisam_o1.data.dataset.geometry import from_patch, resize_nearest, to_patch
from semisam_o1.data.dataset.prediction import Prediction
from semisam_o1.features.extract import CohortAccess, VolumeFeatures
from semisam_o1.propagation.cohort import CohortAtlas

Propagation = Callable[[CohortAccess, CohortAtlas, ProgressFn, Callable[[str], None]], list[Prediction]]
"""(volumes, their atlas, progress, function that tells the user) → predictions of the unlabeled volumes in order."""


def class_prototypes(templates: Sequence[tuple[VolumeFeatures, np.ndarray]], num_classes: int) -> np.ndarray:
    """Return the unit-length prototypes (num_classes, F) float32, zero for a class without a cell on any grid.

    Args:
        templates: (features, label (W, H, D)) of each labeled volume.
    """
    prototypes = np.zeros((num_classes, len(templates[0][0].spatial)), np.float32)
    for features, label in templates:
        cells = resize_nearest(to_patch(label, features.patch_size), features.spatial.shape[1:])
        for c in np.unique(cells[cells < num_classes]):
            prototypes[c] += _unit(features.spatial[:, cells == c].mean(axis=1))
    return np.stack([_unit(prototype) for prototype in prototypes])


def propagate(features: VolumeFeatures, prototypes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the pseudo-label uint8 (W, H, D) of a volume of ``shape``; voxels outside the patch become background."""
    length = np.linalg.norm(features.spatial, axis=0)
    cosine = np.tensordot(prototypes, features.spatial / np.maximum(length, 1e-8), axes=1)
    cells = cosine.argmax(axis=0).astype(np.uint8)
    return from_patch(resize_nearest(cells, features.patch_size), shape)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-8)


def by_prototype(
    access: CohortAccess, atlas: CohortAtlas, progress: ProgressFn, say: Callable[[str], None]
) -> list[Prediction]:
    """Label every cell of the feature grid with the class whose mean template feature is most similar."""
    templates = [(access.features[name], access.label(name)) for name in access.labeled]
    prototypes = class_prototypes(templates, access.num_classes)
    absent = [str(c) for c in range(1, access.num_classes) if not prototypes[c].any()]
    if absent:
        say(
            f"warning: the template's class {', '.join(absent)} covers no cell of the feature grid and cannot be "
            "propagated; --propagation atlas works voxel by voxel"
        )

    def label(name: str) -> Prediction:
        return Prediction(propagate(access.features[name], prototypes, access.shape(name)))

    return share_out(label, access.unlabeled, progress, "round 0", cpu_threads())


def by_atlas(
    access: CohortAccess, atlas: CohortAtlas, progress: ProgressFn, say: Callable[[str], None]
) -> list[Prediction]:
    """Register the volumes to the templates and to each other, and fuse the warped labels."""
    if atlas.keys.unknown_spacing:
        say(f"the spacing of {len(atlas.keys.unknown_spacing)} scans is not known: voxels of the cohort count as cubes")
    improvements = atlas.register_all(progress)
    unchanged = [name for name, value in zip(access.unlabeled, improvements, strict=True) if value == 0]
    if unchanged and atlas.registration:
        say(f"registration did not improve the alignment of {', '.join(unchanged)}; the initial alignment is used")
    if atlas.turned:
        say(f"in another orientation than the template, by the look of them: {', '.join(atlas.turned)}")

    def label(name: str) -> Prediction:
        return Prediction.from_probabilities(atlas.on_volume(name, atlas.consensus(name)))

    return share_out(label, access.unlabeled, progress, "round 0", cpu_threads())


PROPAGATIONS: dict[str, Propagation] = {"prototype": by_prototype, "atlas": by_atlas}
