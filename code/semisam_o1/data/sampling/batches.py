"""Batches of randomly positioned and oriented patches: labeled items first, then pseudo-labeled ones.

The batch of iteration t is a function of (seed, t): no sampler state has to be saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from semisam_o1.core.device import to_device
from semisam_o1.core.seeding import numpy_generator
from semisam_o1.data.sampling import patches
from semisam_o1.data.sampling.augmentation import (
    Augmentation,
    Warp,
    deform,
    deformed_bounds,
    draw_deformation,
    resample_at,
    warp_coords,
)
from semisam_o1.data.sampling.fields import indices
from semisam_o1.data.sampling.local_zoom import LocalZoom, draw_local_zoom
from semisam_o1.data.sampling.patches import ORIENTATIONS, Orientation


@dataclass(frozen=True)
class Batch:
    """A batch of patches."""

    image: Tensor  # (B, 1, w, h, d) float32
    label: Tensor  # (B, w, h, d) uint8, true labels first, then pseudo-labels
    labeled: int  # number of labeled items
    names: tuple[str, ...]  # names of the items' volumes
    weight: Tensor | None = None  # (B, w, h, d) float32 in [0, 1], of each voxel's label; None for 1 everywhere

    def voxel_weight(self, items: slice) -> Tensor | None:
        """Return the weight (b, w, h, d) of some items."""
        return None if self.weight is None else self.weight[items]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; copies to a GPU are asynchronous."""
        return replace(self, **{key: to_device(value, device) for key, value in self._tensors().items()})

    def used_on(self, stream: torch.cuda.Stream) -> None:
        """Keep the batch's memory until ``stream``, which did not make the batch, has read it."""
        for tensor in self._tensors().values():
            tensor.record_stream(stream)

    def _tensors(self) -> dict[str, Tensor]:
        return {key: value for key, value in vars(self).items() if isinstance(value, Tensor)}


class VolumeSource(Protocol):
    """Volumes by name, as tensors (W, H, D) on one device."""

    def image(self, name: str) -> Tensor:
        """Return the image, float32."""

    def label(self, name: str) -> Tensor:
        """Return the label, uint8; a pseudo-label for an unlabeled volume."""

    def weight(self, name: str) -> Tensor | None:
        """Return the weight of each voxel's label, uint8 from 0 to 255; None for every volume if all weights are 1."""


@dataclass(frozen=True)
class BatchSettings:
    """Settings of a ``BatchStream``."""

    patch_size: tuple[int, int, int]
    labeled_bs: int  # number of labeled items of a batch, over all ranks
    batch_size: int  # number of all items of a batch, over all ranks
    length: int  # number of batches
    seed: tuple[int, ...]  # any number of non-negative integers
    orientations: tuple[Orientation, ...] = ORIENTATIONS["all"]  # drawn from uniformly
    augmentation: Augmentation = Augmentation()
    foreground: float = 0.0  # share of the patches that are centered on foreground, in [0, 1]


@dataclass(frozen=True)
class _Item:
    """One item of a batch, as drawn."""

    name: str
    orientation: Orientation
    position: np.ndarray  # uniform numbers in [0, 1) that place the patch in its volume
    choice: np.ndarray | None  # two more, that choose a foreground voxel for its center; None for any position
    size: tuple[int, ...]  # voxels per axis of the patch before it is oriented
    warp: Warp | None
    deformation: np.ndarray | None  # of ``draw_deformation``
    zoom: LocalZoom | None
    generator: np.random.Generator  # of what is drawn later, about intensities


class BatchStream(torch.utils.data.Dataset):
    """The batches of one round, by iteration.

    Args:
        labeled, unlabeled: names of the volumes; each is drawn equally often, in shuffled order.
        shard: (rank, ranks); this rank gets every ``ranks``-th labeled and unlabeled item.
        device: where patches are augmented; None: where the volumes are. Of volumes elsewhere, the region that a patch
            is sampled from is moved there; the warped template is kept there as a whole.
    """

    def __init__(
        self,
        labeled: Sequence[str],
        unlabeled: Sequence[str],
        source: VolumeSource,
        settings: BatchSettings,
        shard: tuple[int, int] = (0, 1),
        device: torch.device | None = None,
    ):
        self.labeled, self.unlabeled = tuple(labeled), tuple(unlabeled)
        self.source, self.settings, self.shard = source, settings, shard
        self.device = device if settings.augmentation.active else None
        self._template: dict[str, list[Tensor | None]] = {}  # moved to the device
        self._foreground = patches.ForegroundVoxels(source.label)

    def __len__(self) -> int:
        return self.settings.length

    def __getitem__(self, t: int) -> Batch:
        seed, labeled_bs = self.settings.seed, self.settings.labeled_bs
        names = _draw(self.labeled, labeled_bs, t, (*seed, 0))
        names += _draw(self.unlabeled, self.settings.batch_size - labeled_bs, t, (*seed, 1))
        generator, orientations = numpy_generator(*seed, 2, t), self.settings.orientations
        # Drawn for the whole batch, so that its items do not depend on the number of ranks.
        drawn = [
            (name, orientations[generator.integers(len(orientations))], generator.random(3), (*seed, 3, t, index))
            for index, name in enumerate(names)
        ]
        rank, ranks = self.shard
        labeled = drawn[:labeled_bs][rank::ranks]
        items = [self._draw_item(*item) for item in labeled + drawn[labeled_bs:][rank::ranks]]
        names = tuple(item.name for item in items)
        device = self.device or self.source.image(names[0]).device
        image = torch.empty((len(items), *self.settings.patch_size), device=device)
        label = torch.empty_like(image, dtype=torch.uint8)
        weight = None if self.source.weight(names[0]) is None else torch.empty_like(label)
        for index, (item, deformation) in enumerate(zip(items, _deformations(items, device), strict=True)):
            outs = (image[index], label[index], None if weight is None else weight[index])
            self._write_item(outs, item, deformation)
        return Batch(image[:, None], label, len(labeled), names, None if weight is None else weight.float() / 255)

    def _draw_item(self, name: str, orientation: Orientation, position: np.ndarray, seed: tuple[int, ...]) -> _Item:
        augmentation, generator = self.settings.augmentation, numpy_generator(*seed)
        size = patches.source_size(self.settings.patch_size, orientation)
        warp = augmentation.draw_warp(name, generator)
        share = self.settings.foreground
        choice = generator.random(2) if share and generator.random() < share else None
        deformation = draw_deformation(size, generator, augmentation.spacing) if augmentation.spatial else None
        structure = self._foreground.structure(name, generator.random(2)) if augmentation.local else None
        zoom = draw_local_zoom(structure, augmentation.spacing, generator) if structure else None
        return _Item(name, orientation, position, choice, size, warp, deformation, zoom, generator)

    def _start(self, item: _Item, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the first voxel of an item's patch in its volume, or in the donor of its warp."""
        shape = item.warp.donor.shape if item.warp else shape
        start = patches.patch_start(shape, item.size, item.position)
        voxel = None if item.choice is None else self._foreground.choose(item.name, item.choice)
        if voxel is None:
            return start
        return patches.patch_around(item.warp.donor_voxel(voxel) if item.warp else voxel, shape, item.size, start)

    def _write_item(self, outs: tuple[Tensor, Tensor, Tensor | None], item: _Item, deformation: Tensor | None) -> None:
        """Write image, label and, if there are weights, weight of one patch into ``outs``, each (w, h, d)."""
        name, device, augmentation = item.name, outs[0].device, self.settings.augmentation
        volumes = [self.source.image(name), self.source.label(name), self.source.weight(name)]
        shape = volumes[0].shape
        if volumes[1].shape != shape:
            raise ValueError(f"{name}: image has shape {tuple(shape)} and label {tuple(volumes[1].shape)}")
        warp = item.warp and item.warp.to(device)
        first = start = self._start(item, shape)
        coords = None
        if volumes[0].device.type != device.type:
            volumes, start = self._move(volumes, start, item, device)
        corner = np.subtract(first, start)  # of what was moved
        if warp or item.zoom or deformation is not None:
            coords, start = indices(item.size, device, start), (0, 0, 0)
            coords = coords if deformation is None else deform(coords, deformation)
            coords = warp_coords(coords, warp) if warp else coords
            coords = item.zoom.seen_from(corner)(coords) if item.zoom else coords
        for out, volume in zip(outs, volumes, strict=True):
            if volume is not None:
                volume = volume if coords is None else resample_at(volume, coords, nearest=out is not outs[0])
                patches.write_patch(out, volume, start, item.orientation)
        patch = augmentation.change_appearance(outs[0], warp, item.generator)
        if patch is not outs[0]:
            outs[0].copy_(patch)

    def _move(
        self, volumes: list[Tensor | None], start: tuple[int, ...], item: _Item, device: torch.device
    ) -> tuple[list[Tensor | None], tuple[int, ...]]:
        """Return what an item is sampled from on ``device``, and the patch's first voxel in it."""
        if item.warp:
            if item.name not in self._template:
                self._template = {item.name: [v if v is None else to_device(v, device) for v in volumes]}
            return self._template[item.name], start
        low, high = start, np.add(start, item.size) - 1
        if item.deformation is not None:
            low, high = deformed_bounds(start, item.size, item.deformation)
        if item.zoom:
            low, high = low - item.zoom.reach, high + item.zoom.reach
        boxes = [v if v is None else patches.crop(v, low, high) for v in volumes]
        corner = boxes[0][1]
        moved = [box if box is None else to_device(box[0], device) for box in boxes]
        return moved, tuple(first - c for first, c in zip(start, corner, strict=True))


def _deformations(items: Sequence[_Item], device: torch.device) -> Sequence[Tensor | None]:
    """Return the deformations of a batch's items on a device, copied at once."""
    if items[0].deformation is None:
        return [None] * len(items)
    return to_device(torch.from_numpy(np.stack([item.deformation for item in items])), device).unbind()


def _draw(names: tuple[str, ...], count: int, t: int, seed: tuple[int, ...]) -> list[str]:
    """Return ``count`` names from position t · count of an endless sequence of shuffles."""
    positions = range(t * count, (t + 1) * count)
    return [names[_shuffle(len(names), seed, i // len(names))[i % len(names)]] for i in positions]


@lru_cache(maxsize=16)
def _shuffle(length: int, seed: tuple[int, ...], epoch: int) -> tuple[int, ...]:
    return tuple(numpy_generator(*seed, epoch).permutation(length).tolist())
