"""What all methods share: a supervised loss, the same loss on pseudo-labels, and a consistency term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from semisam_o1.core.flags import AT_LEAST_0, AT_LEAST_1, POSITIVE, SHARE, Range, option
from semisam_o1.data.sampling.batches import Batch
from semisam_o1.methods import schedules
from semisam_o1.methods.losses import cross_entropy, dice_loss, one_hot
from semisam_o1.networks.kernels import Kernels

NETWORK_BYTES = 9 * 2**26  # of networks, gradients, moments and what does not grow with the batch


class LossTerm(NamedTuple):
    """One term of the loss; the loss is the sum of weight · value."""

    value: Tensor
    weight: float


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """The flags that methods read; a training run's configuration has them, too."""

    max_iterations: int = option(15000, "iterations per round", within=AT_LEAST_1, resume="more")
    num_classes: int = option(2, "classes, background included", within=Range(2, 255))
    base_lr: float = option(0.01, "learning rate at the start of a round", within=POSITIVE)
    DAN_lr: float = option(0.0001, "learning rate of dan's discriminator", within=POSITIVE)
    ema_decay: float = option(0.99, "decay of the teacher's weights", within=SHARE)
    use_teacher: bool = option(
        False, "validate, save and apply the teacher instead of the student, where the method has one"
    )
    pseudo_weight: float = option(1.0, "weight of the loss on pseudo-labels after its ramp-up", within=AT_LEAST_0)
    consistency: float = option(0.1, "weight of the consistency term after its ramp-up", within=AT_LEAST_0)
    consistency_rampup: float = option(
        200.0, "length of the consistency weight's ramp-up, in units of 150 iterations", within=AT_LEAST_0
    )


class Method:
    """A semi-supervised method. It returns named loss terms; it never steps the student's optimizer.

    Args:
        student: freshly initialized network, on its device.
        options: the run's configuration.
        seed: seed of everything random in the method.
    """

    network: ClassVar[str] = "unet_3D"
    # GPU memory of a step per voxel of the batch, from benchmarks/bench_memory.py.
    voxel_bytes: ClassVar[tuple[int, int]] = (785, 1345)  # with two classes, in 16 bits and in float32
    class_bytes: ClassVar[int] = 17  # for each further class
    # Ends of the names of loss terms so steep that rounding alone turns their gradient.
    steep: ClassVar[tuple[str, ...]] = ()

    def __init__(self, student: nn.Module, options: MethodOptions, seed: int = 1337):
        self.options, self.seed = options, seed

    @classmethod
    def step_bytes(cls, voxels: int, labeled: int, unlabeled: int, classes: int, half: bool) -> int:
        """Return the bytes that a training step takes on a GPU, without cuDNN's workspace.

        Args:
            voxels: of a patch.
            labeled, unlabeled: items of the batch.
            classes: background included.
            half: whether the networks compute in 16 bits.
        """
        per_voxel = cls.voxel_bytes[0 if half else 1] + cls.class_bytes * (classes - 2)
        return NETWORK_BYTES + (labeled + unlabeled) * voxels * per_voxel

    def losses(self, student: nn.Module, batch: Batch, t: int) -> dict[str, LossTerm]:
        """Return the loss terms of a batch at iteration t by name; ``student`` is called like the class's network."""
        logits = student(batch.image)
        probabilities = logits.softmax(1)
        target = one_hot(batch.label, self.options.num_classes)
        terms = {}
        for name, items, weight in self.label_sources(batch, t):
            voxel_weight = batch.voxel_weight(items)
            ce = cross_entropy(logits[items], batch.label[items], voxel_weight)
            dice = dice_loss(probabilities[items], target[items], voxel_weight)
            terms |= {f"{name}_ce": LossTerm(ce, 0.5 * weight), f"{name}_dice": LossTerm(dice, 0.5 * weight)}
        unlabeled = slice(batch.labeled, None)
        value = self.consistency(probabilities[unlabeled], batch.image[unlabeled], t)
        terms["consistency"] = LossTerm(value, self.consistency_weight(t))
        return terms

    def consistency(self, probabilities: Tensor, image: Tensor, t: int) -> Tensor:
        """Return the consistency term of the unlabeled items.

        Args:
            probabilities: the student's softmax (B, C, W, H, D), with gradient.
            image: (B, 1, W, H, D).
        """
        raise NotImplementedError

    def after_step(self, student: nn.Module, batch: Batch, t: int) -> dict[str, Tensor]:
        """Update the method's own networks after the student's step; return further values to log."""
        return {}

    def use_kernels(self, kernels: Kernels) -> None:
        """Let the method's own networks, and itself, be computed like this from now on."""
        for module in vars(self).values():
            if isinstance(module, nn.Module):
                kernels.apply(module)

    def make_optimizer(self, student: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer that trains the student."""
        return torch.optim.SGD(student.parameters(), lr=self.options.base_lr, momentum=0.9, weight_decay=1e-4)

    def learning_rate(self, t: int) -> float:
        """Return the student's learning rate after the step of iteration t."""
        return schedules.learning_rate(self.options.base_lr, t, self.options.max_iterations)

    def eval_model(self, student: nn.Module) -> nn.Module:
        """Return the network that is validated, saved and used for labeling."""
        return student

    def state_dict(self) -> dict[str, Any]:
        """Return the state of everything that the method owns and training changes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""

    def label_sources(self, batch: Batch, t: int) -> list[tuple[str, slice, float]]:
        """Return (name, items, weight) of the labeled and of the pseudo-labeled items of a batch."""
        pseudo = self.options.pseudo_weight * schedules.pseudo_weight(t, self.options.max_iterations)
        return [("supervised", slice(0, batch.labeled), 1.0), ("pseudo", slice(batch.labeled, None), pseudo)]

    def consistency_weight(self, t: int) -> float:
        return schedules.consistency_weight(self.options.consistency, t, self.options.consistency_rampup)
