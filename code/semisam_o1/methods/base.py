"""What all methods share: a supervised loss, the same loss on pseudo-labels, and a consistency term."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from semisam_o1.core.distributed import rank, world_size
from semisam_o1.core.seeding import torch_generator
from semisam_o1.data.sampling.batches import Batch
from semisam_o1.methods.losses import cross_entropy, dice_loss, one_hot
from semisam_o1.methods.schedules import consistency_weight, pseudo_weight


class Term(NamedTuple):
    """One term of the loss; the loss is the sum of weight · value."""

    value: Tensor
    weight: float


@dataclass(frozen=True)
class MethodOptions:
    """What a method needs to know about the run.

    Attributes:
        max_iterations: of the round.
        pseudo_weight: of the pseudo-label loss once it has risen.
        use_teacher: whether the teacher, where there is one, is what comes out of training.
        noise: standard deviation of the noise on the teacher's input, clipped at twice that.
        discriminator_lr, discriminator_dropout: DAN's.
        seed: the noise of iteration t is drawn from (seed, t) alone.
    """

    num_classes: int = 2
    max_iterations: int = 15000
    consistency: float = 0.1
    consistency_rampup: float = 200.0
    pseudo_weight: float = 1.0
    ema_decay: float = 0.99
    use_teacher: bool = False
    noise: float = 0.1
    discriminator_lr: float = 1e-4
    discriminator_dropout: float = 0.5
    seed: int = 1337


class Method:
    """A semi-supervised method. It names loss terms; it never steps the student's optimizer."""

    network: ClassVar[str] = "unet_3D"

    def __init__(self, student: nn.Module, options: MethodOptions):
        """Args:
        student: the freshly initialized network, on its device.
        """
        self.options = options

    def losses(self, student: nn.Module, batch: Batch, t: int) -> dict[str, Term]:
        """Return the loss terms of one batch at iteration t by name.

        Args:
            student: callable as the network that ``network`` names.
        """
        logits = student(batch.image)
        probabilities = logits.softmax(1)
        target = one_hot(batch.label, self.options.num_classes)
        terms = {}
        for name, items, weight in self.streams(batch, t):
            trust = batch.trust(items)
            terms[f"{name}_ce"] = Term(cross_entropy(logits[items], batch.label[items], trust), 0.5 * weight)
            terms[f"{name}_dice"] = Term(dice_loss(probabilities[items], target[items], trust), 0.5 * weight)
        unlabeled = slice(batch.labeled, None)
        value = self.consistency(probabilities[unlabeled], batch.image[unlabeled], t)
        terms["consistency"] = Term(value, self.consistency_weight(t))
        return terms

    def consistency(self, probabilities: Tensor, image: Tensor, t: int) -> Tensor:
        """Return the consistency term of the unlabeled items.

        Args:
            probabilities: the student's softmax (B, C, W, H, D), with gradient.
            image: (B, 1, W, H, D).
        """
        raise NotImplementedError

    def after_step(self, student: nn.Module, batch: Batch, t: int) -> dict[str, Tensor]:
        """Move what the method owns after the student's step; return what is worth logging."""
        return {}

    def outcome(self, student: nn.Module) -> nn.Module:
        """Return the network that is validated, kept and used."""
        return student

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the method owns and that training changes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""

    def streams(self, batch: Batch, t: int) -> list[tuple[str, slice, float]]:
        """Return (name, items, weight) of the labeled and the pseudo-labeled part of a batch."""
        return [
            ("supervised", slice(0, batch.labeled), 1.0),
            ("pseudo", slice(batch.labeled, None), self.pseudo_weight(t)),
        ]

    def pseudo_weight(self, t: int) -> float:
        return self.options.pseudo_weight * pseudo_weight(t, self.options.max_iterations)

    def consistency_weight(self, t: int) -> float:
        return consistency_weight(self.options.consistency, t, self.options.consistency_rampup)

    def add_noise(self, image: Tensor, t: int, draws: int = 1) -> list[Tensor]:
        """Return ``draws`` copies of the unlabeled images with fresh clipped Gaussian noise.

        Every rank draws the noise of the whole batch and keeps its own part, so that the number of ranks
        does not change what a volume sees.
        """
        std = self.options.noise
        if std == 0:
            return [image] * draws
        generator = torch_generator(self.options.seed, t, device=image.device)
        shape = (len(image), world_size(), *image.shape[1:])  # this rank has every world_size()-th item
        draw = partial(torch.randn, shape, generator=generator, device=image.device)
        return [image + (draw()[:, rank()] * std).clamp(-2 * std, 2 * std) for _ in range(draws)]
