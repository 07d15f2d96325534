"""UA-MT: which voxels are kept, and what they are divided by."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from method_helpers import ITERATIONS, make_batch, make_method, small_student
from semisam_o1.methods.uamt import PASSES


class FixedTeacher(nn.Module):
    """Answers with one logit difference per voxel, whatever it sees."""

    def __init__(self, difference: torch.Tensor):
        super().__init__()
        self.logits = torch.stack([torch.zeros_like(difference), difference])[None]
        self.seen = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen += len(image)
        return self.logits.expand(len(image), -1, -1, -1, -1)


def test_unsure_voxels_count_nothing() -> None:
    batch, student = make_batch(), small_student("uamt")
    method = make_method("uamt", student)
    difference = torch.zeros(batch.image.shape[2:])  # entropy ln 2, above the threshold at the start
    difference[:4] = 5.0  # entropy 0.04
    method.teacher = FixedTeacher(difference)
    value = method.losses(student, batch, 0)["consistency"].value
    with torch.no_grad():
        ours = student(batch.image[1:]).softmax(1)
    theirs = method.teacher.logits.softmax(1)
    kept = (ours - theirs)[:, :, :4]
    voxels = kept[0, 0].numel()
    torch.testing.assert_close(value, (kept**2).sum() / (2 * voxels))
    assert method.teacher.seen == 1 + PASSES


def test_nothing_kept_is_zero_and_harmless() -> None:
    batch, student = make_batch(), small_student("uamt")
    method = make_method("uamt", student)
    method.teacher = FixedTeacher(torch.zeros(batch.image.shape[2:]))
    value = method.losses(student, batch, 0)["consistency"].value
    value.backward()
    assert value.item() == 0
    assert student[0].weight.grad.abs().max() == 0


@pytest.mark.parametrize(("t", "kept"), [(0, False), (ITERATIONS, True)])
def test_threshold_rises_with_the_round(t: int, kept: bool) -> None:
    # p = 0.25: entropy 0.562 nats, between the thresholds 0.521 at the start and 0.693 at the end.
    batch, student = make_batch(), small_student("uamt")
    method = make_method("uamt", student)
    method.teacher = FixedTeacher(torch.full(batch.image.shape[2:], math.log(1 / 3)))
    value = method.losses(student, batch, t)["consistency"].value
    assert (value.item() > 0) == kept


def test_entropy_is_that_of_the_mean_of_the_passes() -> None:
    batch, student = make_batch(), small_student("uamt")
    method = make_method("uamt", student)
    sure = FixedTeacher(torch.full(batch.image.shape[2:], 8.0))

    class Flipping(FixedTeacher):
        def forward(self, image):
            signs = (-1.0) ** torch.arange(self.seen, self.seen + len(image))
            return super().forward(image) * signs.view(-1, 1, 1, 1, 1)

    # Every single pass is sure, their mean is undecided.
    method.teacher = Flipping(torch.full(batch.image.shape[2:], 8.0))
    assert method.losses(student, batch, 0)["consistency"].value.item() == 0
    method.teacher = sure
    assert method.losses(student, batch, 0)["consistency"].value.item() > 0
