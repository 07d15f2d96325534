"""A cohort in the frame of its templates: every volume placed, and neighbors registered to each other.

Errors of single registrations are independent of each other. A volume therefore also asks its nearest neighbors, whose
labels a second registration carries over, and hears most, voxel by voxel, those that match it best (the locally
weighted fusion of Artaechevarria et al., "Combination Strategies in Multi-Atlas Image Segmentation", IEEE TMI 2009).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from threading import Lock

import numpy as np
import torch

from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.volumes import content_hash
from semisam_o1.data.sampling.fields import resize, sample
from semisam_o1.propagation.atlas import AtlasPropagation, Placed
from semisam_o1.propagation.description import Described, Scan
from semisam_o1.propagation.registration import box_mean

VERSION = 1  # changes whenever the numbers do, so that kept ones are not mixed up
HELD = 2 * 2**30  # bytes of descriptions kept in memory
SELECTIVITY = 2.0  # how much more the better match counts


def build_atlas(
    templates: Mapping[str, np.ndarray],
    scan: Callable[[str], Scan],
    key: Callable[[str], str],
    similarity: Mapping[str, np.ndarray],
    num_classes: int,
    neighbors: int,
    cache: ArrayCache,
    features_key: str,
    device: torch.device,
    registered: bool = True,
) -> CohortAtlas:
    """Return the atlas of a cohort.

    Args:
        templates: name → label (W, H, D), of the labeled volumes.
        features_key: of the foundation model's features, if the scans have any.

    See ``CohortAtlas`` for the others.
    """
    digest = hashlib.blake2b(f"{VERSION} {num_classes} {features_key} {registered}".encode(), digest_size=8)
    for name, label in templates.items():
        digest.update(f"{key(name)} {content_hash(label)}".encode())
    atlas = AtlasPropagation(
        [(scan(name), label) for name, label in templates.items()], num_classes, device, registered
    )
    return CohortAtlas(atlas, list(templates), scan, key, similarity, neighbors, cache, digest.hexdigest())


class CohortAtlas:
    """Places the volumes of a cohort and carries labels between them; what it computes is kept on disk.

    All arrays are on the working grids of the volumes. Safe to use from several threads.

    Args:
        atlas: with the cohort's templates.
        templates: their names, in its order.
        scan: name → volume.
        key: name → of the volume's content.
        similarity: name → global feature of unit length; the neighbors are the nearest by its cosine.
        neighbors: how many of the other volumes, templates included, a volume asks.
        cache: where placements and registrations are kept, under ``atlas_key``.
    """

    def __init__(
        self,
        atlas: AtlasPropagation,
        templates: Sequence[str],
        scan: Callable[[str], Scan],
        key: Callable[[str], str],
        similarity: Mapping[str, np.ndarray],
        neighbors: int,
        cache: ArrayCache,
        atlas_key: str,
    ) -> None:
        self.atlas = atlas
        self._scan, self._key, self._similarity, self._cache = scan, key, similarity, cache
        self._count, self._folder = neighbors, f"atlas-{atlas_key}"
        self._fixed = dict(zip(templates, atlas.placed_templates, strict=True))
        self._held: OrderedDict[str, Described] = OrderedDict()
        self._lock = Lock()

    def placed(self, name: str) -> Placed:
        """Return a volume's place in the frame and what the templates say about its labels."""
        if name in self._fixed:
            return self._fixed[name]
        key = f"{self._folder}/{self._key(name)}"
        kept = _whole(self._cache.get(key), places=4, probabilities=4, gain=0)
        if kept is not None:
            return Placed(kept["places"], kept["probabilities"], float(kept["gain"]))
        placed = self.atlas.place(self._described(name))
        self._cache.put(key, places=placed.places, probabilities=placed.probabilities, gain=np.array(placed.gain))
        return placed

    def neighbors(self, name: str) -> list[str]:
        """Return the volumes most like a volume, the nearest first."""
        others = [other for other in self._similarity if other != name]
        cosine = np.stack([self._similarity[other] for other in others]) @ self._similarity[name]
        return [others[i] for i in np.argsort(-cosine, kind="stable")[: self._count]]

    def ask_neighbors(self, name: str, probabilities: Callable[[str], np.ndarray]) -> np.ndarray:
        """Return the neighbors' class probabilities (C, w, h, d) float32, carried to a volume and fused.

        Args:
            probabilities: name of a neighbor → (C, w', h', d') on its working grid.
        """
        own = self._described(name)
        half = [-(-size // 2) for size in own.grid]  # is enough to judge a match on
        coarse = resize(own.registration, half)
        carried, mismatch = [], []
        for other in self.neighbors(name):
            there = torch.from_numpy(self._registered(name, other))
            moving = self._described(other).registration
            moved = sample(moving, resize(there, half).to(moving.device))
            mismatch.append(box_mean((coarse - moved).square().mean(0, keepdim=True)))
            carried.append(sample(torch.from_numpy(probabilities(other)), there))
        distance = torch.stack(mismatch)
        weights = torch.softmax(-SELECTIVITY * distance / distance.mean().clamp_min(1e-12), dim=0)
        return sum(resize(w, own.grid).cpu() * part for w, part in zip(weights, carried, strict=True)).numpy()

    def consensus(self, name: str) -> np.ndarray:
        """Return the class probabilities (C, w, h, d) that the templates and the neighbors agree on.

        Without registration, which neighbors are asked by, only those of the templates.
        """
        own = self.placed(name).probabilities
        if not self.atlas.registered:
            return own
        return (own + self.ask_neighbors(name, lambda other: self.placed(other).probabilities)) / 2

    def _registered(self, fixed: str, moving: str) -> np.ndarray:
        """Return where the voxels of one volume lie in another, (3, w, h, d)."""
        key = f"{self._folder}/pairs/{self._key(fixed)}-{self._key(moving)}"
        kept = _whole(self._cache.get(key), displacement=4)
        start = self.atlas.between(self.placed(fixed).places, self.placed(moving).places)
        grid = start.shape[1:]
        if kept is None:
            own, other = self._described(fixed), self._described(moving)
            displacement, _ = self.atlas.register(own, self.placed(fixed).places, other, start)
            half = [-(-size // 2) for size in grid]  # it is smooth: half the resolution keeps it
            kept = {"displacement": resize(torch.from_numpy(displacement), half).numpy().astype(np.float16)}
            self._cache.put(key, **kept)
        return start + resize(torch.from_numpy(kept["displacement"].astype(np.float32)), grid).numpy()

    def _described(self, name: str) -> Described:
        with self._lock:
            if name in self._held:
                self._held.move_to_end(name)
                return self._held[name]
        described = self.atlas.describe(self._scan(name))
        with self._lock:
            self._held[name] = described
            while len(self._held) > 1 and sum(part.nbytes for part in self._held.values()) > HELD:
                self._held.popitem(last=False)
        return described


def _whole(kept: dict[str, np.ndarray] | None, **dimensions: int) -> dict[str, np.ndarray] | None:
    """Return what a file of the cache held, None unless it is finite numbers of those names and dimensions."""
    if kept is None:
        return None
    arrays = [(kept.get(name), ndim) for name, ndim in dimensions.items()]
    good = (a is not None and a.ndim == ndim and a.dtype.kind == "f" and np.isfinite(a).all() for a, ndim in arrays)
    return kept if all(good) else None
