"""Features of volumes, computed once and cached on disk, and the volumes of a cohort with their features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from semisam_o1.core.distributed import from_main, share_out
from semisam_o1.core.terminal import ProgressFn, silent
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.geometry import to_patch
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.sampling.store import VolumeStore
from semisam_o1.features.builtin import BuiltinFeatures
from semisam_o1.features.sam_med3d import PATCH_SIDE, load_encoder


class FeatureSet(Protocol):
    """Turns volumes into features."""

    key: str  # changes whenever the features do

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the spatial feature (F, w, h, d) of an image (W, H, D)."""

    def patch_size(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the patch that the spatial feature of a volume of ``shape`` covers."""

    def global_feature(self, spatial: np.ndarray) -> np.ndarray:
        """Return one vector of unit length for a volume, from its spatial feature."""


@dataclass(frozen=True)
class VolumeFeatures:
    """Features of one volume."""

    spatial: np.ndarray  # (F, w, h, d) float32 over the volume centered in ``patch_size``
    global_feature: np.ndarray  # (G,) float32 of unit length
    patch_size: tuple[int, int, int]  # voxels of the patch that ``spatial`` covers

    @classmethod
    def of(cls, image: np.ndarray, feature_set: FeatureSet) -> VolumeFeatures:
        """Compute the features of an image (W, H, D) float32."""
        spatial = feature_set(image)
        return cls(spatial, feature_set.global_feature(spatial), feature_set.patch_size(image.shape))


def global_feature(spatial: np.ndarray) -> np.ndarray:
    """Return the mean of a spatial feature (F, w, h, d) over its positions, scaled to unit length."""
    mean = spatial.reshape(len(spatial), -1).mean(axis=1)
    return mean / max(float(np.linalg.norm(mean)), 1e-8)


class SamFeatures:
    """The features of SAM-Med3D's image encoder; raises InputError if the checkpoint cannot be used."""

    def __init__(self, checkpoint: Path, device: torch.device):
        self.device, self._encoder = device, load_encoder(checkpoint, device)
        digest = hashlib.blake2b(np.memmap(checkpoint, mode="r"), digest_size=8)
        self.key = f"sam-{digest.hexdigest()}-patch{PATCH_SIDE}-v1"

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        patch = torch.from_numpy(to_patch(image, self.patch_size(image.shape)))
        return self._encoder(patch[None, None].to(self.device))[0].cpu().numpy()

    def patch_size(self, shape: Sequence[int]) -> tuple[int, int, int]:
        return (PATCH_SIDE,) * 3

    global_feature = staticmethod(global_feature)


FEATURE_SETS: dict[str, Callable[[Path, torch.device], FeatureSet]] = {
    "sam": SamFeatures,
    "builtin": lambda checkpoint, device: BuiltinFeatures(),
}


def extract_features(
    image: Callable[[str], np.ndarray],
    hashes: Mapping[str, str],
    feature_set: FeatureSet,
    cache: ArrayCache,
    progress: ProgressFn = silent,
) -> tuple[dict[str, VolumeFeatures], int]:
    """Return the features of every volume by name, and how many had to be computed.

    Args:
        image: name → (W, H, D) float32; called for the volumes that the cache lacks.
        hashes: name → hash of the image's values, for every volume.
        cache: where features are looked up and stored.
        progress: iterates over the volumes that the cache lacks.
    """
    keys = {name: f"{feature_set.key}/{content_hash}" for name, content_hash in hashes.items()}

    def compute(name: str) -> VolumeFeatures:
        features = VolumeFeatures.of(image(name), feature_set)
        arrays = {"spatial": features.spatial, "whole": features.global_feature}
        cache.put(keys[name], **arrays, patch_size=np.array(features.patch_size))
        return features

    def cached(key: str) -> VolumeFeatures | None:
        arrays = cache.get(key, spatial=4, whole=1, patch_size=1)
        if arrays is None or arrays["patch_size"].size != 3:
            return None
        return VolumeFeatures(arrays["spatial"], arrays["whole"], tuple(arrays["patch_size"].tolist()))

    found = {name: cached(key) for name, key in keys.items()}
    missing = from_main([name for name, features in found.items() if features is None])
    found.update(zip(missing, share_out(compute, missing, progress, "features"), strict=True))
    return found, len(missing)


@dataclass(frozen=True)
class CohortAccess:
    """Image, true label, shape, content hash and features of volumes by name: those for training, and maybe others."""

    cohort: Cohort  # names of the labeled and unlabeled volumes, as the preflight checked them
    store: VolumeStore
    features: Mapping[str, VolumeFeatures]
    features_key: str  # key of the feature set that computed them
    num_classes: int  # background included

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
        """Return the global feature (G,) of unit length of every volume."""
        return {name: features.global_feature for name, features in self.features.items()}
