"""The features of a cohort: computed once per volume, kept on disk, found again by every later run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from semisam_o1.core.distributed import from_main, share_out
from semisam_o1.core.errors import InputError
from semisam_o1.core.progress import ProgressFn, silent
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.geometry import to_patch
from semisam_o1.features.builtin import BuiltinFeatures
from semisam_o1.features.sam_med3d import PATCH_SIDE, load_encoder

KEPT = {"spatial": 4, "whole": 1, "patch_size": 1}  # arrays on disk and their dimensions


class FeatureSet(Protocol):
    """Turns volumes into features."""

    key: str  # changes whenever the features do

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the spatial feature (F, w, h, d) of an image (W, H, D)."""

    def patch_size(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the patch that the spatial feature of a volume of ``shape`` covers."""

    def global_feature(self, spatial: np.ndarray) -> np.ndarray:
        """Return one vector of unit length for the whole volume."""


@dataclass(frozen=True)
class VolumeFeatures:
    """Features of one volume.

    Attributes:
        spatial: (F, w, h, d) float32 over the volume centered in ``patch_size``.
        whole: (G,) float32 of unit length, the global feature.
    """

    spatial: np.ndarray
    whole: np.ndarray
    patch_size: tuple[int, int, int]


def global_feature(spatial: np.ndarray) -> np.ndarray:
    """Return the mean of a spatial feature (F, w, h, d) over its positions, scaled to unit length."""
    mean = spatial.reshape(len(spatial), -1).mean(axis=1)
    return mean / max(float(np.linalg.norm(mean)), 1e-8)


class SamFeatures:
    """The features of SAM-Med3D.

    Raises:
        InputError: if the checkpoint cannot be used, at once and not when the first volume needs it.
    """

    version = 1

    def __init__(self, checkpoint: Path, device: torch.device):
        self.device = device
        self.key = f"sam-{file_hash(checkpoint)}-patch{PATCH_SIDE}-v{self.version}"
        self._encoder = load_encoder(checkpoint, device)

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


def make_feature_set(name: str, checkpoint: Path, device: torch.device) -> FeatureSet:
    """Return the feature set that ``--features`` names.

    Raises:
        InputError: if it needs the checkpoint and there is none.
    """
    return FEATURE_SETS[name](checkpoint, device)


def extract_features(
    names: Sequence[str],
    image: Callable[[str], np.ndarray],
    image_hash: Callable[[str], str],
    feature_set: FeatureSet,
    cache: ArrayCache,
    progress: ProgressFn = silent,
) -> tuple[dict[str, VolumeFeatures], int]:
    """Return the features of every volume, and how many had to be computed.

    Args:
        image: name → (W, H, D) float32, asked for the missing ones only.
        image_hash: name → hash of the image's values.
        cache: where features are looked up and kept.
        progress: iterates over the missing ones.
    """

    def key(name: str) -> str:
        return f"{feature_set.key}/{image_hash(name)}"

    def compute(name: str) -> VolumeFeatures:
        volume = image(name)
        spatial = feature_set(volume)
        features = VolumeFeatures(spatial, feature_set.global_feature(spatial), feature_set.patch_size(volume.shape))
        cache.put(key(name), spatial=spatial, whole=features.whole, patch_size=np.array(features.patch_size))
        return features

    found = {name: _kept(cache, key(name)) for name in names}
    missing = from_main([name for name in names if found[name] is None])
    found.update(zip(missing, share_out(compute, missing, progress, "features"), strict=True))
    return found, len(missing)


def _kept(cache: ArrayCache, key: str) -> VolumeFeatures | None:
    arrays = cache.get(key)
    if arrays is None or {name: array.ndim for name, array in arrays.items()} != KEPT:
        return None
    if not all(np.isfinite(array).all() for array in arrays.values()) or arrays["patch_size"].size != 3:
        return None
    return VolumeFeatures(arrays["spatial"], arrays["whole"], tuple(arrays["patch_size"].tolist()))


def file_hash(path: Path) -> str:
    """Return a short hash of a file's content.

    Raises:
        InputError: if the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=8)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    except OSError as error:
        raise InputError(
            f"the SAM-Med3D checkpoint {path} cannot be read ({error.strerror}); put sam_med3d_turbo.pth there, "
            "name it with --sam_ckpt, or run without it: --propagation atlas --features builtin"
        ) from None
    return digest.hexdigest()
