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

from semisam_o1.core.seeding import numpy_generator
from semisam_o1.data.sampling.augmentation import Augmentation, resample_at
from semisam_o1.data.sampling.fields import indices
from semisam_o1.data.sampling.patches import ORIENTATIONS, Orientation, patch_start, source_size, write_patch


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
        pinned = device.type == "cuda" and self.image.device.type == "cpu"
        tensors = {key: value.pin_memory() if pinned else value for key, value in self._tensors().items()}
        return replace(self, **{key: value.to(device, non_blocking=True) for key, value in tensors.items()})

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


class BatchStream(torch.utils.data.Dataset):
    """The batches of one round, by iteration.

    Args:
        labeled, unlabeled: names of the volumes; each is drawn equally often, in shuffled order.
        shard: (rank, ranks); this rank gets every ``ranks``-th labeled and unlabeled item.
    """

    def __init__(
        self,
        labeled: Sequence[str],
        unlabeled: Sequence[str],
        source: VolumeSource,
        settings: BatchSettings,
        shard: tuple[int, int] = (0, 1),
    ):
        self.labeled, self.unlabeled = tuple(labeled), tuple(unlabeled)
        self.source, self.settings, self.shard = source, settings, shard

    def __len__(self) -> int:
        return self.settings.length

    def __getitem__(self, t: int) -> Batch:
        seed, labeled_bs = self.settings.seed, self.settings.labeled_bs
        names = _draw(self.labeled, labeled_bs, t, (*seed, 0))
        names += _draw(self.unlabeled, self.settings.batch_size - labeled_bs, t, (*seed, 1))
        generator, orientations = numpy_generator(*seed, 2, t), self.settings.orientations
        # Drawn for the whole batch, so that its items do not depend on the number of ranks.
        items = [
            (name, orientations[generator.integers(len(orientations))], generator.random(3), (*seed, 3, t, index))
            for index, name in enumerate(names)
        ]
        rank, ranks = self.shard
        labeled = items[:labeled_bs][rank::ranks]
        items = labeled + items[labeled_bs:][rank::ranks]
        names = tuple(name for name, *_ in items)
        image = torch.empty((len(items), *self.settings.patch_size), device=self.source.image(names[0]).device)
        label = torch.empty_like(image, dtype=torch.uint8)
        weight = None if self.source.weight(names[0]) is None else torch.empty_like(label)
        for index, item in enumerate(items):
            self._write_item((image[index], label[index], None if weight is None else weight[index]), *item)
        return Batch(image[:, None], label, len(labeled), names, None if weight is None else weight.float() / 255)

    def _write_item(
        self,
        outs: tuple[Tensor, Tensor, Tensor | None],
        name: str,
        orientation: Orientation,
        position: np.ndarray,
        seed: tuple[int, ...],
    ) -> None:
        """Write image, label and, if there are weights, weight of one patch into ``outs``, each (w, h, d)."""
        image, label, weight = self.source.image(name), self.source.label(name), self.source.weight(name)
        if image.shape != label.shape:
            raise ValueError(f"{name}: image has shape {tuple(image.shape)} and label {tuple(label.shape)}")
        augmentation, generator = self.settings.augmentation, numpy_generator(*seed)
        size = source_size(self.settings.patch_size, orientation)
        warp = augmentation.draw_warp(name, generator)
        start, coords = patch_start(warp.donor.shape if warp else image.shape, size, position), None
        if warp or augmentation.spatial:
            voxel_coords = indices(size, image.device) + torch.tensor(start, device=image.device).view(3, 1, 1, 1)
            start, coords = (0, 0, 0), augmentation.sample_coords(voxel_coords, warp, generator)
        for out, volume in zip(outs, (image, label, weight), strict=True):
            if volume is not None:
                volume = volume if coords is None else resample_at(volume, coords, nearest=volume is not image)
                write_patch(out, volume, start, orientation)
        patch = augmentation.change_appearance(outs[0], warp, generator)
        if patch is not outs[0]:
            outs[0].copy_(patch)


def _draw(names: tuple[str, ...], count: int, t: int, seed: tuple[int, ...]) -> list[str]:
    """Return ``count`` names from position t · count of an endless sequence of shuffles."""
    positions = range(t * count, (t + 1) * count)
    return [names[_shuffle(len(names), seed, i // len(names))[i % len(names)]] for i in positions]


@lru_cache(maxsize=16)
def _shuffle(length: int, seed: tuple[int, ...], epoch: int) -> tuple[int, ...]:
    return tuple(numpy_generator(*seed, epoch).permutation(length).tolist())
