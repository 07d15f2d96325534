"""What a plan is made from: the scans, the machine, and what a training step takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from semisam_o1.data.dataset.volumes import Grid

CPU_PATCH = 80 * 64 * 48  # voxels; two cores train one to three pairs of such patches per second
GPU_PATCH = 128**3  # voxels, as published
CPU_MEMORY_SHARE, GPU_MEMORY_SHARE = 0.5, 0.8  # of the memory, for a training step


@dataclass(frozen=True)
class Template:
    """The label that everything starts from, on the grid of its scan."""

    extent: tuple[int, int, int]  # voxels of the box around its foreground
    class_voxels: tuple[int, ...]  # voxels of every foreground class

    @classmethod
    def of(cls, label: np.ndarray, num_classes: int) -> Template:
        """Measure a label map (W, H, D) with some foreground."""
        inside = [np.flatnonzero((label > 0).any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        extent = tuple(int(indices[-1] - indices[0] + 1) for indices in inside)
        counts = np.bincount(label.ravel(), minlength=num_classes)[1:]
        return cls(extent, tuple(counts.tolist()))


@dataclass(frozen=True)
class Scans:
    """The scans of a cohort; size and spacing are medians over them, axis by axis."""

    size: tuple[int, int, int]  # voxels
    spacing: tuple[float, float, float]  # mm; 1 where it is not known
    template: Template | None = None  # None where nothing is labeled yet
    labeled: int = 1  # number of scans, as those of the next two
    unlabeled: int = 1
    validation: int = 0
    turned: bool = False  # whether their headers state different orientations
    registered: int = 0  # unlabeled scans whose registration to the template is kept from an earlier run
    region: int = 0  # cells around the template's structures, on which labels are carried over
    region_size: tuple[int, int, int] | None = None  # of that region, in voxels
    searched: int = 0  # the same at the resolution of registration

    @classmethod
    def of(cls, grids: Sequence[Grid], template: Template | None = None, **others: int | bool) -> Scans:
        """Take the medians of grids with the same order of axes."""
        size = np.median([grid.size for grid in grids], axis=0)
        spacing = np.median([grid.geometry.spacing for grid in grids], axis=0)
        rounded = tuple(round(float(side), 4) for side in spacing)  # headers hold float32
        return cls(tuple(int(side) for side in np.ceil(size)), rounded, template, **others)


@dataclass(frozen=True)
class Machine:
    """What a run is computed on."""

    on_gpu: bool
    memory: int  # bytes, of the GPU, or of RAM that is available
    cores: int
    precision: str = "fp32"  # of networks: 'fp32', 'bf16' or 'fp16'

    @property
    def name(self) -> str:
        return "GPU" if self.on_gpu else "CPU"

    def step_memory(self) -> float:
        """Return the bytes that a training step may take."""
        return self.memory * (GPU_MEMORY_SHARE if self.on_gpu else CPU_MEMORY_SHARE)

    def patch_voxels(self, step_bytes: Callable[[int], int] | None = None) -> int:
        """Return the voxels of the largest patch that is trained in reasonable time and fits in memory.

        Args:
            step_bytes: voxels of a patch → bytes of a training step; None: memory is not considered.
        """
        voxels = GPU_PATCH if self.on_gpu else CPU_PATCH
        while step_bytes is not None and voxels > 32 * 16 * 16 and step_bytes(voxels) > self.step_memory():
            voxels = voxels * 7 // 8
        return voxels
