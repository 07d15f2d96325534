"""A cohort in the frame of its templates: every volume registered to them, and neighbors registered to each other.

A volume is also labeled by its nearest neighbors, whose labels a second registration warps. They are fused voxel by
voxel with weights that rise with the local similarity (Artaechevarria et al., "Combination Strategies in Multi-Atlas
Image Segmentation", IEEE TMI 2009).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from threading import Lock

import numpy as np
import torch

from semisam_o1.core.device import to_device
from semisam_o1.core.distributed import cpu_threads, share_out
from semisam_o1.core.terminal import ProgressFn
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.volumes import content_hash
from semisam_o1.data.sampling.augmentation import Donor, Warps, quantiles
from semisam_o1.data.sampling.fields import resize, sample
from semisam_o1.features.extract import CohortAccess
from semisam_o1.propagation.atlas import AtlasPropagation, RegisteredVolume, Template
from semisam_o1.propagation.description import VolumeDescription
from semisam_o1.propagation.matching import working_grid
from semisam_o1.propagation.registration import box_mean

VERSION = 1  # part of the cache key, to be raised whenever results change
DESCRIPTION_BYTES = 2 * 2**30  # of descriptions kept in memory
BYTES_PER_VOXEL = 200  # of a description, at most: 50 channels
SELECTIVITY = 2.0  # of the fusion: softmax scale of relative mismatches


class CohortAtlas:
    """Registers the volumes of a cohort and transfers labels between them; results are cached on disk.

    All arrays are on the working grids of the volumes. Safe to use from several threads.

    Args:
        neighbors: number of other volumes, templates included, that a volume is registered to; those with the largest
            cosine of the global features.
        registration: whether to register, or to align by matches only.
        compare_features: whether volumes are compared by their spatial features as well. Not useful for the built-in
            ones, which are computed here on a finer grid.
    """

    def __init__(
        self,
        access: CohortAccess,
        cache: ArrayCache,
        neighbors: int,
        device: torch.device | str = "cpu",
        registration: bool = True,
        compare_features: bool = False,
    ) -> None:
        self.access, self.registration = access, registration
        self._cache, self._neighbors, self._device = cache, neighbors, device
        self._features = access.features if compare_features else {}
        self._propagation: AtlasPropagation | None = None
        self._lock = Lock()
        largest = BYTES_PER_VOXEL * max(math.prod(self.grid(name)) for name in access.features)
        self._description = lru_cache(max(1, DESCRIPTION_BYTES // largest))(self._describe)

    @property
    def propagation(self) -> AtlasPropagation:
        """The propagation from the labeled volumes, which are described on first use, by whichever thread it is."""
        with self._lock:
            if self._propagation is None:
                access, get = self.access, self._features.get
                templates = [Template(access.image(name), access.label(name), get(name)) for name in access.labeled]
                self._propagation = AtlasPropagation(templates, access.num_classes, self._device, self.registration)
        return self._propagation

    @cached_property
    def _folder(self) -> str:
        access = self.access
        settings = f"{VERSION} {access.num_classes} {access.features_key} {self.registration}"
        digest = hashlib.blake2b(settings.encode(), digest_size=8)
        for name in access.labeled:
            digest.update(f"{access.content_hash(name)} {content_hash(access.label(name))}".encode())
        return f"atlas-{digest.hexdigest()}"

    def grid(self, name: str) -> list[int]:
        """Return the working grid of a volume."""
        return working_grid(self.access.shape(name), self.access.shape(self.access.labeled[0]))

    def register_all(self, progress: ProgressFn) -> list[float]:
        """Register the unlabeled volumes, shared out over processes and threads; return the relative improvements."""

        def improvement(name: str) -> float:
            return self.registered(name).relative_improvement

        return share_out(improvement, self.access.unlabeled, progress, "registration", cpu_threads())

    def registered(self, name: str) -> RegisteredVolume:
        """Return a volume registered to the templates."""
        if name in self.access.labeled:
            return self.propagation.templates[self.access.labeled.index(name)]
        key = f"{self._folder}/{self.access.content_hash(name)}"
        cached = self._cache.get(key, places=4, probabilities=4, gain=0)
        if cached is not None:
            return RegisteredVolume(cached["places"], cached["probabilities"], float(cached["gain"]))
        volume = self.propagation.register(self._description(name))
        arrays = {"places": volume.frame_coords, "probabilities": volume.probabilities}
        self._cache.put(key, **arrays, gain=np.array(volume.relative_improvement))
        return volume

    def neighbors(self, name: str) -> list[str]:
        """Return the volumes whose global features are most like a volume's, the nearest first."""
        features = self.access.features
        others = [other for other in features if other != name]
        cosine = np.stack([features[other].global_feature for other in others]) @ features[name].global_feature
        return [others[i] for i in np.argsort(-cosine, kind="stable")[: self._neighbors]]

    def fuse_neighbors(self, name: str, probabilities: Callable[[str], np.ndarray]) -> np.ndarray:
        """Return the neighbors' class ``probabilities`` (C, w, h, d) float32, by name, warped to a volume and fused."""
        own = self._description(name)
        half = _half(own.grid)  # sufficient to compare on
        device = self.propagation.device
        reduced = resize(to_device(own.registration, device), half)
        warped, mismatch = [], []
        for other in self.neighbors(name):
            voxel_coords = torch.from_numpy(self._voxel_coords(name, other))
            moving = self._description(other).registration
            moved = sample(to_device(moving, device), to_device(resize(voxel_coords, half), device))
            mismatch.append(box_mean((reduced - moved).square().mean(0, keepdim=True)))
            warped.append(sample(torch.from_numpy(probabilities(other)), voxel_coords))
        distance = torch.stack(mismatch)
        weights = torch.softmax(-SELECTIVITY * distance / distance.mean().clamp_min(1e-12), dim=0)
        return sum(resize(w, own.grid).cpu() * part for w, part in zip(weights, warped, strict=True)).numpy()

    def consensus(self, name: str) -> np.ndarray:
        """Return the mean class probabilities (C, w, h, d) from the templates and, if registered, the neighbors."""
        own = self.registered(name).probabilities
        if not self.registration:
            return own
        return (own + self.fuse_neighbors(name, lambda other: self.registered(other).probabilities)) / 2

    def _voxel_coords(self, fixed: str, moving: str) -> np.ndarray:
        """Return the voxel coordinates (3, w, h, d) in one volume of another's voxels, by registration."""
        key = f"{self._folder}/pairs/{self.access.content_hash(fixed)}-{self.access.content_hash(moving)}"
        cached = self._cache.get(key, displacement=4)
        fixed_volume = self.registered(fixed)
        start = self.propagation.affine_coords(fixed_volume, self.registered(moving))
        grid = start.shape[1:]
        if cached is None:
            displacement, _ = self.propagation.register_pair(
                self._description(fixed), fixed_volume.frame_coords, self._description(moving), start
            )
            reduced = resize(torch.from_numpy(displacement), _half(grid))  # it is smooth
            cached = {"displacement": reduced.numpy().astype(np.float16)}
            self._cache.put(key, **cached)
        return start + resize(torch.from_numpy(cached["displacement"].astype(np.float32)), grid).numpy()

    def _describe(self, name: str) -> VolumeDescription:
        return self.propagation.describe(self.access.image(name), self._features.get(name))

    def warps(self) -> Warps:
        """Return the warps of the first labeled volume to the unlabeled ones, on the device of the stored volumes."""
        access, store = self.access, self.access.store
        donors = []
        for name in access.unlabeled:
            template_coords = self.propagation.template_coords(self.registered(name).frame_coords)
            affine = _fit_affine(template_coords, access.shape(name))
            arrays = (torch.from_numpy(array).to(store.device) for array in (template_coords, affine))
            donors.append(Donor(access.shape(name), *arrays, quantiles(store.image(name)).to(store.device)))
        template = access.labeled[0]
        return Warps(template, quantiles(store.image(template)).to(store.device), donors)


def _half(grid: Sequence[int]) -> list[int]:
    return [-(-size // 2) for size in grid]


def _fit_affine(template_coords: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Fit the affine map (3, 4) from voxel coordinates of a volume of ``shape`` to template_coords (3, w, h, d)."""
    grid = template_coords.shape[1:]
    axes = [(np.arange(n) + 0.5) * (size / n) - 0.5 for n, size in zip(grid, shape, strict=True)]
    voxels = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    known = np.concatenate([voxels, np.ones((1, voxels.shape[1]))])
    values = template_coords.reshape(3, -1).astype(np.float64)
    return np.linalg.lstsq(known.T, values.T, rcond=None)[0].T.astype(np.float32)
