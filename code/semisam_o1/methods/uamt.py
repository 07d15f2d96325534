"""UA-MT: Mean Teacher, restricted to voxels where the teacher is certain.

Yu et al., "Uncertainty-Aware Self-ensembling Model for Semi-supervised 3D Left Atrium Segmentation",
MICCAI 2019, https://arxiv.org/abs/1907.07034
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from semisam_o1.core.device import OutOfMemorySafeBatcher
from semisam_o1.core.distributed import sum_over_ranks
from semisam_o1.methods.base import MethodOptions
from semisam_o1.methods.losses import squared_difference
from semisam_o1.methods.mean_teacher import MeanTeacher
from semisam_o1.methods.schedules import entropy_threshold
from semisam_o1.networks.kernels import Kernels

PASSES = 8  # Monte-Carlo passes of the teacher


class UAMT(MeanTeacher):
    pass_bytes = (340, 440)  # per voxel of the passes that share a call, in 16 bits and in float32

    @classmethod
    def step_bytes(cls, voxels: int, labeled: int, unlabeled: int, classes: int, half: bool) -> int:
        images = unlabeled * OutOfMemorySafeBatcher().batches_per_call(1 + PASSES, unlabeled * voxels, "cuda")
        passes = images * voxels * cls.pass_bytes[0 if half else 1]
        return passes + super().step_bytes(voxels, labeled, unlabeled, classes, half)

    def __init__(self, student: nn.Module, options: MethodOptions, seed: int = 1337):
        super().__init__(student, options, seed)
        self._batcher = OutOfMemorySafeBatcher()

    def use_kernels(self, kernels: Kernels) -> None:
        super().use_kernels(kernels)
        self._batcher.max_batches = sys.maxsize if kernels.joined else 1

    def consistency(self, probabilities: Tensor, image: Tensor, t: int) -> Tensor:
        passes = self._batcher(self.teacher_softmax, self.add_noise(image, t, 1 + PASSES))
        target = next(passes)
        mean = torch.zeros_like(target)
        for draw in passes:
            mean += draw / PASSES
        entropy = -(mean * torch.log(mean + 1e-6)).sum(1, keepdim=True)
        certain = (entropy < entropy_threshold(t, self.options.max_iterations)).float()
        difference = (certain * squared_difference(probabilities, target)).sum()
        difference, voxels = sum_over_ranks(torch.stack([difference, certain.sum()]))
        return difference / (2 * voxels + 1e-16)
