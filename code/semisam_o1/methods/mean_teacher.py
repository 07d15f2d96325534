"""Mean Teacher: the student agrees with the moving average of its own weights.

Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, https://arxiv.org/abs/1703.01780
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from semisam_o1.core.distributed import rank, world_size
from semisam_o1.core.seeding import torch_generator
from semisam_o1.data.sampling.batches import Batch
from semisam_o1.methods.base import Method, MethodOptions
from semisam_o1.methods.losses import squared_difference
from semisam_o1.methods.schedules import ema_decay


class MeanTeacher(Method):
    noise = 0.1  # standard deviation of the noise on the teacher's input, which is clipped at twice that

    def __init__(self, student: nn.Module, options: MethodOptions, seed: int = 1337):
        super().__init__(student, options, seed)
        self.teacher = copy.deepcopy(student).requires_grad_(False).train()  # dropout stays active

    def consistency(self, probabilities: Tensor, image: Tensor, t: int) -> Tensor:
        (noisy,) = self.add_noise(image, t)
        return squared_difference(probabilities, self.teacher_softmax(noisy)).mean()

    @torch.no_grad()
    def teacher_softmax(self, image: Tensor) -> Tensor:
        """Return the teacher's softmax (B, C, W, H, D)."""
        return self.teacher(image).softmax(1)

    def add_noise(self, image: Tensor, t: int, draws: int = 1) -> list[Tensor]:
        """Return ``draws`` copies of the unlabeled images (B, 1, W, H, D) with fresh clipped Gaussian noise.

        The noise is a function of seed and iteration. Every rank draws that of the whole batch and keeps its own part,
        so that the number of ranks does not change what a volume sees.
        """
        if self.noise == 0:
            return [image] * draws
        generator = torch_generator(self.seed, t, device=image.device)
        shape = (len(image), world_size(), *image.shape[1:])  # this rank has every world_size()-th item
        noisy = []
        for _ in range(draws):
            noise = torch.randn(shape, generator=generator, device=image.device)[:, rank()] * self.noise
            noisy.append(image + noise.clamp(-2 * self.noise, 2 * self.noise))
        return noisy

    @torch.no_grad()
    def after_step(self, student: nn.Module, batch: Batch, t: int) -> dict[str, Tensor]:
        decay, parameters = ema_decay(self.options.ema_decay, t), list(self.teacher.parameters())
        torch._foreach_mul_(parameters, decay)
        torch._foreach_add_(parameters, list(student.parameters()), alpha=1 - decay)
        return {}

    def eval_model(self, student: nn.Module) -> nn.Module:
        return self.teacher if self.options.use_teacher else student

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.teacher.load_state_dict(state["teacher"])
