"""A timed trial: how long a training step of a run takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from semisam_o1.core import distributed
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.sampling.augmentation import Augmentation
from semisam_o1.data.sampling.batches import BatchSettings, BatchStream
from semisam_o1.data.sampling.patches import ORIENTATIONS
from semisam_o1.networks.kernels import Kernels
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.training.tuning import TrainingTrial

BATCHES = 3  # that are made and timed, after one that is not


def step_seconds(config: TrainConfig, cohort: Cohort, device: torch.device, precision: str) -> float:
    """Return the seconds of a training step of this process: its network, its method and its share of the batch.

    The batches come from the template and one other scan; the steps are computed on data that are made up. Nothing of
    the run is changed.
    """
    ranks = distributed.world_size()
    shape = (config.batch_size // ranks, 1, *config.patch_size)
    labeled = config.labeled_bs // ranks
    trial = TrainingTrial(config.new_network(), config.backbone, config, shape, labeled, device, precision)
    computing, loading = trial.seconds(Kernels()), batch_seconds(config, cohort, device)
    if device.type != "cuda":
        return computing + loading
    del trial
    torch.cuda.empty_cache()  # what the run finds free decides where volumes are kept
    return max(computing, loading)  # batches are made meanwhile


def batch_seconds(config: TrainConfig, cohort: Cohort, device: torch.device) -> float:
    """Return the seconds in which a batch is made of the template and one other scan, without warps to others."""
    kinds, labeled = config.augmentation, config.labeled_bs
    spacing = cohort.info[cohort.labeled[0]].geometry.spacing
    settings = BatchSettings(
        patch_size=config.patch_size,
        labeled_bs=labeled,
        batch_size=config.batch_size,
        length=BATCHES + 1,
        seed=(0,),
        orientations=ORIENTATIONS[config.orientations],
        augmentation=Augmentation("spatial" in kinds, "intensity" in kinds, local="local" in kinds, spacing=spacing),
    )
    source = TwoScans.read(config, cohort)
    stream = BatchStream(cohort.labeled[:1], cohort.unlabeled[:1], source, settings, device=device)
    stream[0]
    started = time.perf_counter()
    for t in range(BATCHES):
        stream[t + 1].label.cpu()  # waits for a GPU
    return (time.perf_counter() - started) / BATCHES / distributed.world_size()


@dataclass(frozen=True)
class TwoScans:
    """A ``VolumeSource`` of the template and one other scan, whose label is empty."""

    images: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]

    @classmethod
    def read(cls, config: TrainConfig, cohort: Cohort) -> TwoScans:
        """Read the two scans from their files."""
        template, other = (config.dataset.load(name) for name in (cohort.labeled[0], cohort.unlabeled[0]))
        images = {volume.name: torch.from_numpy(volume.image) for volume in (template, other)}
        empty = torch.zeros(other.image.shape, dtype=torch.uint8)
        return cls(images, {template.name: torch.from_numpy(template.label), other.name: empty})

    def image(self, name: str) -> Tensor:
        return self.images[name]

    def label(self, name: str) -> Tensor:
        return self.labels[name]

    def weight(self, name: str) -> Tensor | None:
        return None
