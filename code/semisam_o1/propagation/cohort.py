"""A cohort in the frame of its templates: every volume registered to them, and neighbors registered to each other.

A volume is also labeled by its nearest neighbors, whose labels a second registration warps. They are fused voxel by
voxel with weights that rise with the local similarity (Artaechevarria et al., "Combination Strategies in Multi-Atlas
Image Segmentation", IEEE TMI 2009).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from semisam_o1.core.distributed import cpu_threads, share_out
from semisam_o1.core.terminal import ProgressFn
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.sampling.augmentation import Donor, Warps, quantiles
from semisam_o1.data.sampling.fields import sample, sample_array
from semisam_o1.features.extract import CohortAccess
from semisam_o1.propagation.affine import fit_affine
from semisam_o1.propagation.appearance import adapt
from semisam_o1.propagation.atlas import AtlasPropagation, RegisteredVolume, Template
from semisam_o1.propagation.description import VolumeDescription
from semisam_o1.propagation.keys import AtlasKeys
from semisam_o1.propagation.region import Region
from semisam_o1.propagation.registration import Channels, Step, local_mismatch, mean_by_mismatch

KEPT_BYTES = 2 * 2**30  # of what registration compares of volumes, at most; the rest is computed again
SELECTIVITY = 2.0  # of the fusion: softmax scale of relative mismatches
PATH_SELECTIVITY = 8.0  # of the consensus, by the worst match between the template and the volume
TWIN = 0.5  # mismatch of a neighbor, relative to that of the template, below which it shows nearly the same


class CohortAtlas:
    """Registers the volumes of a cohort and transfers labels between them; results are cached on disk.

    All arrays are on the working grids of the volumes' regions. Lengths are millimeters; if the spacing of a volume is
    not known, voxels of all volumes count as cubes of one size. Safe to use from several threads.

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
        self._template_mismatch = lru_cache(None)(lambda name: float(self._mismatch(name).mean()))
        self._channels: dict[str, Channels] = {}

    @property
    def propagation(self) -> AtlasPropagation:
        """The propagation from the labeled volumes, which are described on first use, by whichever thread it is."""
        with self._lock:
            if self._propagation is None:
                access, get = self.access, self._features.get
                templates = [
                    Template(access.image(name), access.label(name), get(name), self.spacing(name))
                    for name in access.labeled
                ]
                self._propagation = AtlasPropagation(templates, access.num_classes, self._device, self.registration)
        return self._propagation

    @cached_property
    def keys(self) -> AtlasKeys:
        """The keys that the registrations are cached under."""
        access = self.access
        return AtlasKeys(access.cohort, access.num_classes, access.features_key, self.registration)

    def spacing(self, name: str) -> Step:
        """Return the spacing of a volume in mm, or that of cubes if it is not known throughout the cohort."""
        return self.keys.spacing(name)

    def on_grid(self, name: str, probabilities: Tensor) -> np.ndarray:
        """Resample probabilities (C, W, H, D) of a volume to its working grid, in half precision."""
        return self.registered(name).region.resample(probabilities).cpu().numpy().astype(np.float16)

    def on_volume(self, name: str, probabilities: np.ndarray, elsewhere: Tensor | None = None) -> Tensor:
        """Resample probabilities (C, w, h, d) on the working grid to the volume, (C, W, H, D), as ``Region.paste``."""
        return self.registered(name).region.paste(probabilities, elsewhere)

    def register_all(self, progress: ProgressFn) -> list[float]:
        """Register the unlabeled volumes, shared out over processes and threads; return the relative improvements."""

        def improvement(name: str) -> float:
            return self.registered(name).relative_improvement

        return share_out(improvement, self.access.unlabeled, progress, "registration", cpu_threads())

    def registered(self, name: str) -> RegisteredVolume:
        """Return a volume registered to the templates."""
        if name in self.access.labeled:
            return self.propagation.templates[self.access.labeled.index(name)]
        key = self.keys.volume(name)
        cached = self._cache.get(key, places=4, probabilities=4, gain=0, region=2, pose=2)
        if cached is not None:
            region = Region.from_arrays(cached["region"], cached["pose"])
            return RegisteredVolume(region, cached["places"], cached["probabilities"], float(cached["gain"]))
        region = self.propagation.find(self.access.image(name), self.spacing(name))
        volume = self.propagation.register(self._describe(name, region))
        arrays = {"places": volume.frame_coords, "probabilities": volume.probabilities, **region.to_arrays()}
        self._cache.put(key, **arrays, gain=np.array(volume.relative_improvement))
        return volume

    @cached_property
    def turned(self) -> list[str]:
        """The unlabeled volumes that lie in another orientation than the template, with it, as text."""
        poses = {name: self.registered(name).region.pose for name in self.access.unlabeled}
        return [f"{name} ({pose})" for name, pose in poses.items() if pose.turned]

    def neighbors(self, name: str) -> list[str]:
        """Return the volumes of the cohort whose global features are most like a volume's, the nearest first."""
        features = self.access.features
        others = [other for other in self.access.cohort.train if other != name]
        cosine = np.stack([features[other].global_feature for other in others]) @ features[name].global_feature
        return [others[i] for i in np.argsort(-cosine, kind="stable")[: self._neighbors]]

    def fuse_neighbors(self, name: str, probabilities: Callable[[str], np.ndarray]) -> np.ndarray:
        """Return the neighbors' class ``probabilities`` (C, w, h, d) float32, by name, warped to a volume and fused."""
        warped, mismatches = self._warped(name, probabilities)
        return mean_by_mismatch(warped, mismatches.values(), SELECTIVITY)

    def _warped(self, name: str, probabilities: Callable[[str], np.ndarray]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the neighbors' probabilities warped to a volume, and their local mismatches by name."""
        own, warped, mismatches = self._compared(name).on(self.propagation.device), [], {}
        for other in self.neighbors(name):
            cell_coords = torch.from_numpy(self._cell_coords(name, other))
            moving, grid = self._compared(other).on(own.values.device), self.registered(other).region.grid
            mismatches[other] = local_mismatch(own, moving, cell_coords, grid)
            warped.append(sample(torch.from_numpy(probabilities(other)), cell_coords))
        return warped, mismatches

    def consensus(self, name: str) -> np.ndarray:
        """Return the class probabilities (C, w, h, d) of a volume by the templates and its neighbors."""
        return self.opinions(name)[0]

    def opinions(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the ``consensus``, adapted to the intensities, and what the neighbors carry over from the templates.

        A volume takes over the consensus of its twin, where it has one. Without registration, only templates speak.
        """
        volume = self.registered(name)
        if not self.registration:
            return volume.probabilities, volume.probabilities
        warped, mismatches = self._warped(name, self._by_templates)
        estimate = self._estimate(name, warped, mismatches)
        twin = self._twin(name, {other: float(mismatch.mean()) for other, mismatch in mismatches.items()})
        if twin is not None:
            of_twin = self._estimate(twin, *self._warped(twin, self._by_templates))
            estimate = sample_array(of_twin, self._cell_coords(name, twin))
        image, step = volume.region.reduce(self.access.image(name)), self.propagation.step(volume.region)
        return adapt(estimate, image, step), mean_by_mismatch(warped, mismatches.values(), SELECTIVITY)

    def _by_templates(self, name: str) -> np.ndarray:
        return self.registered(name).probabilities

    def _estimate(self, name: str, warped: Sequence[Tensor], mismatches: Mapping[str, Tensor]) -> np.ndarray:
        """Return the fusion of a volume's own estimate and its neighbors', which are warped to it.

        A neighbor's estimate is worth no more than its own registration to the template. Where all are worth the same,
        the volume's own one counts as much as all others together.
        """
        worst = [m.clamp_min(self._template_mismatch(other)) for other, m in mismatches.items()]
        estimates = [*warped, torch.from_numpy(self._by_templates(name))]
        return mean_by_mismatch(estimates, [*worst, self._mismatch(name)], PATH_SELECTIVITY, last=max(len(worst), 1))

    def _twin(self, name: str, mismatches: Mapping[str, float]) -> str | None:
        """Return the neighbor that shows nearly the same and is more like the template, None if there is none."""
        own = self._template_mismatch(name)
        alike = [other for other, mismatch in mismatches.items() if mismatch < TWIN * own]
        closer = {other: self._template_mismatch(other) for other in alike if other not in self.access.labeled}
        twin = min(closer, key=closer.get, default=None)
        return twin if twin is not None and closer[twin] < own else None

    def _mismatch(self, name: str) -> Tensor:
        volume = self.registered(name)
        return self.propagation.mismatch(self._compared(name), volume)

    def _cell_coords(self, fixed: str, moving: str) -> np.ndarray:
        """Return the cell coordinates (3, w, h, d) in one volume of another's cells, by registration."""
        key = self.keys.pair(fixed, moving)
        cached = self._cache.get(key, displacement=4, start=0)
        volumes = [self.registered(name) for name in (fixed, moving)]
        starts = self.propagation.pair_starts(*volumes)
        if cached is None:
            compared = map(self._compared, (fixed, moving))
            pair = self.propagation.register_pair(*compared, volumes[1].region.grid, starts)
            cached = {"displacement": pair.displacement.astype(np.float16), "start": np.array(pair.start)}
            self._cache.put(key, **cached)
        displacement, start = cached["displacement"].astype(np.float32), starts[int(cached["start"])]
        return self.propagation.displace(start, displacement, volumes[1].region)

    def _compared(self, name: str) -> Channels:
        """Return what registration compares of a volume."""
        channels = self._channels.get(name)
        return channels if channels is not None else self._describe(name, self.registered(name).region).registration

    def _describe(self, name: str, region: Region) -> VolumeDescription:
        description = self.propagation.describe(self.access.image(name), region, self._features.get(name))
        with self._lock:
            kept = sum(channels.values.nbytes for channels in self._channels.values())
            if kept + description.registration.values.nbytes <= KEPT_BYTES:
                self._channels[name] = description.registration
        return description

    def forget(self, name: str) -> None:
        """Forget what is kept of a volume."""
        with self._lock:
            self._channels.pop(name, None)

    def warps(self) -> Warps:
        """Return the warps of the first labeled volume to the unlabeled ones, on the device of the stored volumes."""
        access, store = self.access, self.access.store
        donors = []
        for name in access.unlabeled:
            template_coords = self.propagation.template_coords(self.registered(name))
            affine = fit_affine(template_coords, access.shape(name))
            arrays = (torch.from_numpy(array).to(store.device) for array in (template_coords, affine))
            donors.append(Donor(access.shape(name), *arrays, quantiles(store.image(name)).to(store.device)))
        template = access.labeled[0]
        return Warps(template, quantiles(store.image(template)).to(store.device), donors)
