"""Decoded volumes of a cohort: read once into RAM or GPU memory, or at each request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from semisam_o1.core.distributed import world_size
from semisam_o1.core.memory import available_memory
from semisam_o1.core.terminal import progress
from semisam_o1.data.dataset.volumes import Dataset

MAX_SHARE = 0.5  # of the free RAM, for volumes
MAX_GPU_SHARE = 0.9  # of the free GPU memory, for volumes and training; an allocator wastes some
WORKSPACE_BYTES = 2**30  # of cuDNN and its kernels

ReadLabels = Callable[[Sequence[str]], dict[str, np.ndarray]]


def choose_cache(cache: str, device: torch.device, nbytes: int, step_bytes: int) -> tuple[str, str]:
    """Return where the volumes are cached ('gpu', 'ram' or 'none') and the reason.

    Args:
        cache: the user's choice; 'auto' decides by the size of the cohort and the free memory.
        nbytes: bytes of all decoded volumes, with all that is kept beside them.
        step_bytes: bytes of a training step on a GPU.
    """
    size = f"{nbytes / 2**30:.2f} GiB of volumes"
    if cache == "gpu" and device.type != "cuda":
        return "ram", f"{size}; there is no GPU"
    if cache != "auto":
        return cache, f"{size}; as requested"
    if device.type == "cuda":
        free, training = torch.cuda.mem_get_info(device)[0], step_bytes + WORKSPACE_BYTES
        size += f" and {training / 2**30:.1f} GiB for training"
        if nbytes + training < MAX_GPU_SHARE * free:
            return "gpu", f"{size} fit on the GPU"
        size += f" do not fit into {free / 2**30:.1f} GiB of GPU memory; the volumes"
    if nbytes < MAX_SHARE * (available_memory() // world_size()):
        return "ram", f"{size} fit in RAM"
    return "none", f"{size} do not fit in RAM"


class VolumeStore:
    """Images and true labels by name.

    Args:
        names: names of the volumes that will be requested.
        cache: 'gpu' (on ``device``), 'ram', or 'none' (read from the file; the last volume alone is kept).
    """

    def __init__(self, dataset: Dataset, names: Sequence[str], cache: str, device: torch.device):
        self.dataset = dataset
        self.device = device if cache == "gpu" else torch.device("cpu")
        self.in_memory = cache != "none"
        self._volumes = {name: self._read(name) for name in progress(names, "reading")} if self.in_memory else {}

    def image(self, name: str) -> Tensor:
        """Return the image (W, H, D) float32 on the store's device."""
        return self._get(name)[0]

    def label(self, name: str) -> Tensor | None:
        """Return the true label (W, H, D) uint8, None if there is none."""
        return self._get(name)[1]

    def _get(self, name: str) -> tuple[Tensor, Tensor | None]:
        volume = self._volumes.get(name)
        if volume is None:
            volume = self._read(name)
            if not self.in_memory:  # image and label are requested one after the other
                self._volumes = {name: volume}
        return volume

    def _read(self, name: str) -> tuple[Tensor, Tensor | None]:
        volume = self.dataset.load(name)
        image = torch.from_numpy(volume.image).to(self.device)
        return image, None if volume.label is None else torch.from_numpy(volume.label).to(self.device)


class PseudoLabeledVolumes:
    """A ``VolumeSource``: the volumes of a store, with the pseudo-labels of one round for the unlabeled ones.

    Pseudo-labels are in memory if the store's volumes are; otherwise they are read at each request.

    Args:
        read_labels: names → pseudo-labels uint8 (W, H, D); pickled for worker processes.
        read_weights: names → weight of each voxel's pseudo-label, uint8 (W, H, D) from 0 to 255; None for no weights.
    """

    def __init__(
        self,
        store: VolumeStore,
        unlabeled: Sequence[str],
        read_labels: ReadLabels,
        read_weights: ReadLabels | None = None,
    ):
        self._store, self._unlabeled = store, frozenset(unlabeled)
        self._read = {"label": read_labels, "weight": read_weights}
        kinds = [kind for kind, read in self._read.items() if read and store.in_memory]
        self._in_memory = {kind: self._tensors(kind, unlabeled) for kind in kinds}

    def image(self, name: str) -> Tensor:
        return self._store.image(name)

    def label(self, name: str) -> Tensor:
        return self._get("label", name) if name in self._unlabeled else self._store.label(name)

    def weight(self, name: str) -> Tensor | None:
        if self._read["weight"] is None:
            return None
        if name in self._unlabeled:
            return self._get("weight", name)
        label = self.label(name)  # true labels have full weight
        return label.new_full((), 255).expand_as(label)

    def _get(self, kind: str, name: str) -> Tensor:
        return (self._in_memory.get(kind) or self._tensors(kind, [name]))[name]

    def _tensors(self, kind: str, names: Sequence[str]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array).to(self._store.device) for name, array in self._read[kind](names).items()}
