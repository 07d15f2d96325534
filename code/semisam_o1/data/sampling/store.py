"""Decoded volumes of a cohort: read once into RAM or onto the GPU, or again at each request."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from semisam_o1.core.distributed import world_size
from semisam_o1.core.memory import available_memory
from semisam_o1.core.progress import progress
from semisam_o1.data.dataset.hdf5 import open_hdf5, read_array
from semisam_o1.data.dataset.volumes import Dataset, Volume

SHARE = 0.5  # of the memory that is free, at most, for decoded volumes


def choose_cache(cache: str, device: torch.device, nbytes: int) -> tuple[str, str]:
    """Return where the volumes are to live ('gpu', 'ram' or 'none') and why.

    Args:
        cache: what the user asked for; 'auto' decides by the size of the cohort and the free memory.
        nbytes: of all decoded volumes.
    """
    size = f"{nbytes / 2**30:.2f} GiB of volumes"
    if cache == "gpu" and device.type != "cuda":
        return "ram", f"{size}; there is no GPU"
    if cache != "auto":
        return cache, f"{size}; as asked for"
    if device.type == "cuda" and nbytes < SHARE * torch.cuda.mem_get_info(device)[0]:
        return "gpu", f"{size} fit on the GPU"
    if nbytes < SHARE * (available_memory() // world_size()):
        return "ram", f"{size} fit in RAM"
    return "none", f"{size} do not fit in RAM"


class VolumeStore:
    """Images and true labels by name.

    Args:
        dataset: where the volumes come from.
        names: those that will be asked for.
        place: 'gpu' (images on ``device``), 'ram', or 'none' (read from the file each time).
    """

    def __init__(
        self,
        dataset: Dataset,
        names: Sequence[str],
        place: str,
        device: torch.device,
    ):
        self.dataset = dataset
        self.device = device if place == "gpu" else torch.device("cpu")
        self._held: dict[str, tuple[Tensor, Tensor | None]] = {}
        if place != "none":
            for name in progress(names, "reading"):
                self._held[name] = self._tensors(dataset.load(name))

    @property
    def in_memory(self) -> bool:
        return bool(self._held)

    def image(self, name: str) -> Tensor:
        """Return the image (W, H, D) float32 on the store's device."""
        return self._get(name)[0]

    def label(self, name: str) -> Tensor | None:
        """Return the true label (W, H, D) uint8, None where there is none."""
        return self._get(name)[1]

    def _get(self, name: str) -> tuple[Tensor, Tensor | None]:
        return self._held[name] if name in self._held else self._tensors(self.dataset.load(name))

    def _tensors(self, volume: Volume) -> tuple[Tensor, Tensor | None]:
        image = torch.from_numpy(volume.image).to(self.device)
        label = None if volume.label is None else torch.from_numpy(volume.label).to(self.device)
        return image, label


class LastRead:
    """Reads volumes and labels of a round from their files, one at a time: for worker processes.

    The image and the label of one patch are asked for one after the other, so the last volume is kept.
    """

    def __init__(self, dataset: Dataset, pseudo_labels: str, labeled: Sequence[str]):
        self.dataset, self.pseudo_labels, self.labeled = dataset, pseudo_labels, frozenset(labeled)
        self._load = lru_cache(maxsize=1)(dataset.load)

    def image(self, name: str) -> Tensor:
        return torch.from_numpy(self._load(name).image)

    def label(self, name: str) -> Tensor:
        if name in self.labeled:
            return torch.from_numpy(self._load(name).label)
        path = Path(self.pseudo_labels)
        with open_hdf5(path) as file:
            return torch.from_numpy(read_array(file, name, path))

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_load"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._load = lru_cache(maxsize=1)(self.dataset.load)
