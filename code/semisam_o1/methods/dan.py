"""DAN: a discriminator classifies segmentations as those of labeled or unlabeled scans; the student fools it.

Zhang et al., "Deep Adversarial Networks for Biomedical Image Segmentation Utilizing Unannotated Images", MICCAI 2017,
https://doi.org/10.1007/978-3-319-66179-7_47
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semisam_o1.core.distributed import average_gradients
from semisam_o1.core.seeding import derive_seed
from semisam_o1.data.sampling.batches import Batch
from semisam_o1.methods.base import Method, MethodOptions
from semisam_o1.networks.layers import guard_small

UNLABELED, LABELED = 0, 1
SHORTEST_SIDE = 16  # of a patch, which four convolutions with stride 2 leave one voxel of


class Discriminator(nn.Module):
    """(softmax (B, C, W, H, D), image (B, 1, W, H, D)) → logits (B, 2): unlabeled, labeled.

    Global average pooling before the linear layer allows any patch of ``SHORTEST_SIDE`` voxels or more per axis.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, dropout: float = 0.5, width: int = 64):
        super().__init__()
        self.conv0 = nn.Conv3d(num_classes, width, 4, stride=2, padding=1)
        self.conv1 = nn.Conv3d(in_channels, width, 4, stride=2, padding=1)
        self.conv2 = nn.Conv3d(width, width * 2, 4, stride=2, padding=1)
        self.conv3 = nn.Conv3d(width * 2, width * 4, 4, stride=2, padding=1)
        self.conv4 = nn.Conv3d(width * 4, width * 8, 4, stride=2, padding=1)
        self.classifier = nn.Linear(width * 8, 2)
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, probabilities: Tensor, image: Tensor) -> Tensor:
        x = self.conv0(probabilities) + self.conv1(image)
        x = self.dropout(F.leaky_relu(x, 0.2))
        for convolution in (self.conv2, self.conv3):
            x = self.dropout(F.leaky_relu(guard_small(convolution, x), 0.2))
        x = F.leaky_relu(guard_small(self.conv4, x), 0.2)
        return self.classifier(x.mean(dim=(2, 3, 4))).float()


class DAN(Method):
    voxel_bytes = (740, 1145)

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
        kind = batch.image.device.type
        # In fp16 its gradients would need a scale of their own: then it is trained in float32.
        in_fp16 = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        with torch.autocast(kind, enabled=False) if in_fp16 else contextlib.nullcontext():
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
