"""Batches of randomly placed, randomly oriented patches: labeled items first, then pseudo-labeled ones.

What iteration t sees is a function of (seed, t): no sampler state has to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from semisam_o1.core.seeding import numpy_generator
from semisam_o1.data.sampling.augmentation import NO_AUGMENTATION, Augmentation, look

MARGIN = 3  # zeros around a volume that is not larger than the patch


class Orientation(NamedTuple):
    """One of the eight symmetries of the plane of the first two axes: swap them, then flip them."""

    swap: bool
    flip_first: bool
    flip_second: bool

    @property
    def flipped_axes(self) -> tuple[int, ...]:
        return tuple(axis for axis, flip in enumerate(self[1:]) if flip)


_ALL = tuple(Orientation(s, a, b) for s in (False, True) for a in (False, True) for b in (False, True))
ORIENTATIONS = {
    "all": _ALL,
    "rotations": tuple(o for o in _ALL if sum(o) % 2 == 0),
    "flips": tuple(o for o in _ALL if not o.swap),
    "none": _ALL[:1],
}


@dataclass(frozen=True)
class Batch:
    """A batch of patches.

    Attributes:
        image: (B, 1, w, h, d) float32.
        label: (B, w, h, d) uint8, true labels first, pseudo-labels after them.
        labeled: how many of the items are labeled.
        names: of the volumes that the items come from.
        weight: (B, w, h, d) float32 between 0 and 1, how much each voxel's label counts; None: all the same.
    """

    image: Tensor
    label: Tensor
    labeled: int
    names: tuple[str, ...]
    weight: Tensor | None = None

    def trust(self, items: slice) -> Tensor | None:
        """Return the weight (b, w, h, d) of some items."""
        return None if self.weight is None else self.weight[items]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; where that is a GPU, the copies are only begun."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            copied = device.type == "cuda" and tensor.device.type == "cpu"
            return (tensor.pin_memory() if copied else tensor).to(device, non_blocking=True)

        return replace(self, image=moved(self.image), label=moved(self.label), weight=moved(self.weight))

    def used_on(self, stream: torch.cuda.Stream) -> None:
        """Keep the batch's memory until a stream, other than the one it was made on, has read it."""
        for tensor in (self.image, self.label, self.weight):
            if tensor is not None:
                tensor.record_stream(stream)


class BatchStream(torch.utils.data.Dataset):
    """The batches of one round, by iteration.

    Args:
        labeled, unlabeled: names of the volumes; each is visited equally often, in shuffled order.
        image: name → (W, H, D) float32.
        label: name → (W, H, D) uint8; a pseudo-label where the volume is unlabeled.
        patch_size: (w, h, d).
        labeled_bs, batch_size: labeled items and all items of a batch, over all ranks.
        orientations: to draw from, uniformly.
        length: number of iterations.
        seed: any number of non-negative integers.
        weight: name → (W, H, D) uint8, 255 where the label of an unlabeled volume counts in full; None: everywhere.
        augmentation: what is changed at random.
        part: (rank, ranks): this rank gets every ``ranks``-th labeled and unlabeled item.
    """

    def __init__(
        self,
        labeled: Sequence[str],
        unlabeled: Sequence[str],
        image: Callable[[str], Tensor],
        label: Callable[[str], Tensor],
        *,
        patch_size: Sequence[int],
        labeled_bs: int,
        batch_size: int,
        length: int,
        seed: Sequence[int],
        orientations: Sequence[Orientation] = ORIENTATIONS["all"],
        weight: Callable[[str], Tensor] | None = None,
        augmentation: Augmentation = NO_AUGMENTATION,
        part: tuple[int, int] = (0, 1),
    ):
        self.labeled, self.unlabeled = tuple(labeled), tuple(unlabeled)
        self.image, self.label = image, label
        self.patch_size = tuple(patch_size)
        self.labeled_bs, self.unlabeled_bs = labeled_bs, batch_size - labeled_bs
        self.length, self.seed = length, tuple(seed)
        self.orientations = tuple(orientations)
        self.weight, self.augmentation = weight, augmentation
        self.rank, self.ranks = part

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, t: int) -> Batch:
        labeled = _draw(self.labeled, self.labeled_bs, t, (*self.seed, 0))
        unlabeled = _draw(self.unlabeled, self.unlabeled_bs, t, (*self.seed, 1))
        generator = numpy_generator(*self.seed, 2, t)
        # Drawn for the whole batch, so that the number of ranks does not change it.
        draws = [
            (name, self.orientations[generator.integers(len(self.orientations))], generator.random(3), index)
            for index, name in enumerate(labeled + unlabeled)
        ]
        own = draws[: len(labeled)][self.rank :: self.ranks]
        labeled_count = len(own)
        own += draws[len(labeled) :][self.rank :: self.ranks]
        device = self.image(own[0][0]).device
        image = torch.empty((len(own), *self.patch_size), device=device)
        label = torch.empty_like(image, dtype=torch.uint8)
        weight = None if self.weight is None else torch.empty_like(label)
        for item, (name, orientation, place, index) in enumerate(own):
            outs = (image[item], label[item], None if weight is None else weight[item])
            self._fill(outs, name, orientation, place, numpy_generator(*self.seed, 3, t, index))
        names = tuple(name for name, *_ in own)
        return Batch(image[:, None], label, labeled_count, names, None if weight is None else weight.float() / 255)

    def _fill(
        self,
        outs: tuple[Tensor, Tensor, Tensor | None],
        name: str,
        orientation: Orientation,
        place: np.ndarray,
        generator: np.random.Generator,
    ) -> None:
        """Write image, label and (where labels are weighted) weight of one patch, each (w, h, d)."""
        image, label = self.image(name), self.label(name)
        if image.shape != label.shape:
            raise ValueError(f"{name}: image has shape {tuple(image.shape)} and label {tuple(label.shape)}")
        weight = None
        if self.weight is not None:
            weight = label.new_tensor(255).expand_as(label) if name in self.labeled else self.weight(name)
        volumes = (image, label, weight)
        size = source_size(self.patch_size, orientation)
        warp = self.augmentation.draw_warp(name, generator)
        start = patch_start(warp.donor.shape if warp else image.shape, size, place)
        if warp or self.augmentation.spatial:
            places = self.augmentation.places(start, size, warp, generator, image.device)
            volumes = [look(volume, places, nearest=index > 0) for index, volume in enumerate(volumes)]
            start = (0, 0, 0)
        for out, volume in zip(outs, volumes, strict=True):
            if volume is not None:
                write_patch(out, volume, start, orientation)
        shown = self.augmentation.appearance(outs[0], warp, generator)
        if shown is not outs[0]:
            outs[0].copy_(shown)


def patch_start(shape: Sequence[int], size: Sequence[int], place: np.ndarray) -> tuple[int, ...]:
    """Return where a patch starts, from uniform numbers in [0, 1); negative where it starts in the padding.

    A volume not larger than the patch counts as padded by half of what is missing and a margin of 3.
    """
    starts = []
    for length, patch, u in zip(shape, size, place, strict=True):
        padding = (patch - length) // 2 + MARGIN if length <= patch else 0
        starts.append(int(u * (length + 2 * padding - patch + 1)) - padding)
    return tuple(starts)


def write_patch(out: Tensor, volume: Tensor, start: Sequence[int], orientation: Orientation) -> None:
    """Write the box at ``start`` of a volume (W, H, D), oriented, into ``out`` (w, h, d); zeros outside of it."""
    inside, within = [], []
    for a, s, n in zip(start, source_size(out.shape, orientation), volume.shape, strict=True):
        low, high = min(max(a, 0), n), max(min(a + s, n), 0)
        inside.append(slice(low, high))
        within.append(slice(low - a, high - a))
    part = volume[tuple(inside)]
    if part.numel() < out.numel():
        out.zero_()
    write = _write_by_view if out.device.type == "cpu" else _write_by_copies
    write(out, part, tuple(within), orientation)


def _write_by_view(out: Tensor, part: Tensor, within: tuple[slice, ...], orientation: Orientation) -> None:
    box = np.flip(out.numpy(), orientation.flipped_axes)  # runs backwards, which no tensor can: one copy does
    box = box.swapaxes(0, 1) if orientation.swap else box
    box[within] = part.numpy()


def _write_by_copies(out: Tensor, part: Tensor, within: tuple[slice, ...], orientation: Orientation) -> None:
    region = [within[1], within[0], within[2]] if orientation.swap else list(within)
    for axis in orientation.flipped_axes:
        side = out.shape[axis]
        region[axis] = slice(side - region[axis].stop, side - region[axis].start)
    out[tuple(region)] = orient(part, orientation)


def source_size(patch_size: Sequence[int], orientation: Orientation) -> tuple[int, ...]:
    """Return the size of the box that has ``patch_size`` once it is oriented."""
    w, h, d = patch_size
    return (h, w, d) if orientation.swap else (w, h, d)


def orient(box: Tensor, orientation: Orientation) -> Tensor:
    """Swap and flip the first two axes of a box (W, H, D)."""
    if orientation.swap:
        box = box.transpose(0, 1)
    return box.flip(orientation.flipped_axes) if orientation.flipped_axes else box


def _draw(names: tuple[str, ...], count: int, t: int, seed: tuple[int, ...]) -> list[str]:
    """Return the names at places t · count … of an endless sequence of shuffles."""
    places = range(t * count, (t + 1) * count)
    return [names[_shuffle(len(names), seed, place // len(names))[place % len(names)]] for place in places]


@lru_cache(maxsize=16)
def _shuffle(length: int, seed: tuple[int, ...], epoch: int) -> tuple[int, ...]:
    return tuple(numpy_generator(*seed, epoch).permutation(length).tolist())
