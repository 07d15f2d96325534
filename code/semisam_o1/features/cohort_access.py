"""The training volumes of a cohort by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.sampling.store import VolumeStore
from semisam_o1.features.extract import VolumeFeatures


@dataclass(frozen=True)
class CohortAccess:
    """Image, true label, shape, content hash and features of every training volume by name.

    Attributes:
        cohort: the names of the labeled and unlabeled volumes, as the preflight checked them.
        store: the decoded volumes.
        features: the features of every training volume.
        features_key: the key of the feature set that computed them.
        num_classes: the number of classes in the labels, background included.
    """

    cohort: Cohort
    store: VolumeStore
    features: Mapping[str, VolumeFeatures]
    features_key: str
    num_classes: int

    @property
    def labeled(self) -> tuple[str, ...]:
        return self.cohort.labeled

    @property
    def unlabeled(self) -> tuple[str, ...]:
        return self.cohort.unlabeled

    def image(self, name: str) -> np.ndarray:
        """Return the image (W, H, D) float32."""
        return self.store.image(name).cpu().numpy()

    def label(self, name: str) -> np.ndarray:
        """Return the true label (W, H, D) uint8 of a volume that has one."""
        return self.store.label(name).cpu().numpy()

    def shape(self, name: str) -> tuple[int, int, int]:
        return self.cohort.info[name].shape

    def content_hash(self, name: str) -> str:
        """Return the hash of the image's values."""
        return self.cohort.info[name].hash

    def global_features(self) -> dict[str, np.ndarray]:
        """Return the global feature (G,) of unit length of every training volume."""
        return {name: features.global_feature for name, features in self.features.items()}
