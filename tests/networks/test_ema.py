"""The teacher as a moving average."""

from __future__ import annotations

import torch
from torch import nn

from semisam_o1.networks.ema import make_teacher, update_teacher


def test_teacher_is_an_independent_frozen_copy_in_training_mode() -> None:
    student = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5)).eval()
    teacher = make_teacher(student)
    assert teacher.training
    assert not student.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    before = teacher[0].weight.clone()
    with torch.no_grad():
        student[0].weight.add_(1)
    assert torch.equal(teacher[0].weight, before)


def test_update_is_the_weighted_mean() -> None:
    student, teacher = nn.Linear(1, 2), nn.Linear(1, 2)
    with torch.no_grad():
        student.weight.copy_(torch.tensor([[4.0], [8.0]]))
        teacher.weight.copy_(torch.tensor([[0.0], [4.0]]))
        student.bias.fill_(1)
        teacher.bias.fill_(2)
    update_teacher(teacher, student, decay=0.75)
    assert teacher.weight.flatten().tolist() == [1.0, 5.0]
    assert teacher.bias.tolist() == [1.75, 1.75]
    assert student.weight.flatten().tolist() == [4.0, 8.0]
