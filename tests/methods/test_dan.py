"""DAN: who moves the discriminator, and what the student is told."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from method_helpers import ITERATIONS, make_batch, make_method, small_student

pytestmark = pytest.mark.usefixtures("narrow_networks")


def test_segmentation_losses_leave_the_discriminator_alone() -> None:
    student = small_student("dan")
    method = make_method("dan", student)
    method.after_step(student, make_batch(), 0)
    method.optimizer.zero_grad()
    terms = method.losses(student, make_batch(), ITERATIONS)
    sum(term.value for term in terms.values()).backward()
    assert student[0].weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in method.discriminator.parameters())


def test_consistency_asks_for_the_verdict_labeled_on_unlabeled_items() -> None:
    batch, student = make_batch(labeled=2, unlabeled=1), small_student("dan")
    method = make_method("dan", student)
    value = method.losses(student, batch, 3)["consistency"].value
    with torch.no_grad():
        verdict = method.discriminator.eval()(student(batch.image[2:]).softmax(1), batch.image[2:])
    torch.testing.assert_close(value, F.cross_entropy(verdict, torch.tensor([1])))


def test_discriminator_learns_labeled_from_unlabeled_on_eval_mode_predictions() -> None:
    batch, student = make_batch(labeled=2, unlabeled=2), small_student("dan")
    method = make_method("dan", student, dropout=0.0)
    modes = []
    student.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    with torch.no_grad():
        verdict = method.discriminator(student(batch.image).softmax(1), batch.image)
        expected = F.cross_entropy(verdict, torch.tensor([1, 1, 0, 0]))
    modes.clear()
    losses = [method.after_step(student, batch, t)["discriminator"] for t in range(6)]
    torch.testing.assert_close(losses[0], expected)
    assert losses[-1] < losses[0]
    assert modes == [False] * 6
    assert student.training


def test_optimizer_is_adam_as_published() -> None:
    method = make_method("dan", small_student("dan"))
    (group,) = method.optimizer.param_groups
    assert isinstance(method.optimizer, torch.optim.Adam)
    assert (group["lr"], group["betas"]) == (1e-4, (0.9, 0.99))


def test_first_weights_come_from_the_seed_alone() -> None:
    def weights(seed: int, noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        student = small_student("dan")
        return make_method("dan", student, seed=seed).discriminator.conv0.weight

    assert torch.equal(weights(1, 2), weights(1, 3))
    assert not torch.equal(weights(1, 2), weights(2, 2))
