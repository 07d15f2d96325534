"""Small students, batches and gradients for the tests of the methods."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from golden_inputs import volume
from semisam_o1.data.sampling.batches import Batch
from semisam_o1.methods import METHODS, Method, MethodOptions

SHAPE = (16, 32, 16)
ITERATIONS = 10


class TwoHeads(nn.Module):
    """A student with a distance head, one convolution each."""

    def __init__(self, classes: int):
        super().__init__()
        self.final = nn.Conv3d(1, classes, 3, padding=1)
        self.final2 = nn.Conv3d(1, classes, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(0.001 * self.final2(x)), self.final(x)


def small_student(name: str, classes: int = 2, seed: int = 0) -> nn.Module:
    """Return a student of one convolution (per head) whose outputs are those that the method expects."""
    torch.manual_seed(seed)
    if METHODS[name].network == "unet_3D_sdf":
        return TwoHeads(classes)
    return nn.Sequential(nn.Conv3d(1, classes, 3, padding=1))


def make_batch(classes: int = 2, labeled: int = 1, unlabeled: int = 1, seed: int = 0) -> Batch:
    """Return noise images with block labels in which every class occurs."""
    items = labeled + unlabeled
    label = np.zeros((items, *SHAPE), np.uint8)
    for c in range(1, classes):
        label[:, 4 * c - 2 : 4 * c + 1, 5:20, 3:9] = c
    label = np.stack([np.roll(item, i, axis=1) for i, item in enumerate(label)])
    names = tuple(f"v{i}" for i in range(items))
    return Batch(volume((items, 1, *SHAPE), seed), torch.from_numpy(label), labeled, names)


def make_method(
    name: str, student: nn.Module, classes: int = 2, seed: int = 1337, noise: float = 0.1, dropout: float = 0.5, **flags
) -> Method:
    """Return a method with this noise on a teacher's input and this dropout in a discriminator."""
    options = MethodOptions(num_classes=classes, **{"max_iterations": ITERATIONS, **flags})
    method = METHODS[name](student, options, seed)
    method.noise = noise
    if name == "dan":
        method.discriminator.dropout.p = dropout
    return method


def make_outputs(name: str, classes: int, items: int) -> tuple[Tensor, ...]:
    """Return network outputs as leaves: logits, or small distances and logits."""
    logits = volume((items, classes, *SHAPE), 5).requires_grad_()
    if METHODS[name].network != "unet_3D_sdf":
        return (logits,)
    return ((0.001 * volume((items, classes, *SHAPE), 6)).requires_grad_(), logits)


def answer(outputs: tuple[Tensor, ...]):
    """Return a student that gives ``outputs`` whatever it is shown."""
    return lambda image: outputs if len(outputs) > 1 else outputs[0]


def reached(gradient: Tensor | None, axis: int) -> list[bool]:
    """Return along one axis whether any gradient arrived there; empty if there is none at all."""
    if gradient is None:
        return []
    return gradient.movedim(axis, 0).flatten(1).abs().amax(1).gt(0).tolist()


def train_step(method: Method, student: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, t: int):
    """Do one step of the student and its method; return the loss terms by name."""
    terms = method.losses(student, batch, t)
    optimizer.zero_grad()
    sum(term.value * term.weight for term in terms.values()).backward()
    optimizer.step()
    logged = method.after_step(student, batch, t)
    return {name: term.value.item() for name, term in terms.items()} | {k: v.item() for k, v in logged.items()}
