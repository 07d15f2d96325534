"""Mean Teacher: the student agrees with the moving average of its own weights.

Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, https://arxiv.org/abs/1703.01780
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from semisam_o1.data.sampling.batches import Batch
from semisam_o1.methods.base import Method, MethodOptions
from semisam_o1.methods.losses import squared_difference
from semisam_o1.methods.schedules import ema_decay
from semisam_o1.networks.ema import make_teacher, update_teacher


class MeanTeacher(Method):
    def __init__(self, student: nn.Module, options: MethodOptions):
        super().__init__(student, options)
        self.teacher = make_teacher(student)

    def consistency(self, probabilities: Tensor, image: Tensor, t: int) -> Tensor:
        (noisy,) = self.add_noise(image, t)
        return squared_difference(probabilities, self.teach(noisy)).mean()

    @torch.no_grad()
    def teach(self, image: Tensor) -> Tensor:
        """Return the teacher's softmax (B, C, W, H, D)."""
        return self.teacher(image).softmax(1)

    def after_step(self, student: nn.Module, batch: Batch, t: int) -> dict[str, Tensor]:
        update_teacher(self.teacher, student, ema_decay(self.options.ema_decay, t))
        return {}

    def outcome(self, student: nn.Module) -> nn.Module:
        return self.teacher if self.options.use_teacher else student

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.teacher.load_state_dict(state["teacher"])
