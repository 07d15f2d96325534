"""DAN: a discriminator classifies segmentations as those of labeled or unlabeled scans; the student fools it.

Zhang et al., "Deep Adversarial Networks for Biomedical Image Segmentation Utilizing Unannotated Images", MICCAI 2017,
https://doi.org/10.1007/978-3-319-66179-7_47
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semisam_o1.core.distributed import average_gradients
from semisam_o1.core.seeding import derive_seed
from semisam_o1.data.sampling.batches import Batch
from semisam_o1.methods.base import Method, MethodOptions
from semisam_o1.networks.discriminator import Discriminator

UNLABELED, LABELED = 0, 1


class DAN(Method):
    def __init__(self, student: nn.Module, options: MethodOptions, seed: int = 1337):
        super().__init__(student, options, seed)
        with torch.random.fork_rng(devices=[]):  # PyTorch's default weights, from this run's seed
            torch.manual_seed(derive_seed(seed))
            self.discriminator = Discriminator(options.num_classes).to(next(student.parameters()).device)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=options.DAN_lr, betas=(0.9, 0.99))

    def consistency(self, probabilities: Tensor, image: Tensor, t: int) -> Tensor:
        # The gradient passes through the discriminator to the student without accumulating in it.
        self.discriminator.requires_grad_(False).eval()
        verdict = self.discriminator(probabilities, image)
        return F.cross_entropy(verdict, torch.full((len(image),), LABELED, device=image.device))

    def after_step(self, student: nn.Module, batch: Batch, t: int) -> dict[str, Tensor]:
        with torch.no_grad():
            student.eval()
            probabilities = student(batch.image).softmax(1)
            student.train()
        self.discriminator.requires_grad_(True).train()
        verdict = self.discriminator(probabilities, batch.image)
        truth = torch.full((len(batch.image),), UNLABELED, device=batch.image.device)
        truth[: batch.labeled] = LABELED
        loss = F.cross_entropy(verdict, truth)
        self.optimizer.zero_grad()
        loss.backward()
        average_gradients(self.discriminator)
        self.optimizer.step()
        return {"discriminator": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
