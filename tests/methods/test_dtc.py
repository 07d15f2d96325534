"""DTC per foreground class: its terms by hand, and which channels and heads they move."""

from __future__ import annotations

import pytest
import torch

from method_helpers import answer, make_batch, make_method, make_outputs, reached, small_student
from semisam_o1.data.sampling.fields import signed_distances
from semisam_o1.methods.losses import dice_loss, one_hot
from semisam_o1.networks import build_network


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_background_distance_receives_no_gradient(classes: int) -> None:
    outputs = make_outputs("dtc", classes, 2)
    method = make_method("dtc", small_student("dtc", classes), classes)
    terms = method.losses(answer(outputs), make_batch(classes), 9)
    for name in ("supervised_distance", "pseudo_implied_dice", "consistency"):
        distance, _ = torch.autograd.grad(terms[name].value, outputs, allow_unused=True, retain_graph=True)
        assert reached(distance, 1) == [False] + [True] * (classes - 1), name


def test_terms_by_hand() -> None:
    batch = make_batch(3, labeled=1, unlabeled=2)
    distance, logits = outputs = make_outputs("dtc", 3, 3)
    terms = make_method("dtc", small_student("dtc", 3), 3).losses(answer(outputs), batch, 9)
    distance, probabilities = distance.detach()[:, 1:], logits.detach().softmax(1)[:, 1:]
    implied = torch.sigmoid(-1500 * distance)
    truth = one_hot(batch.label, 3)[:, 1:]
    error = (distance - signed_distances(batch.label, 3)).abs()
    expected = {
        "supervised_distance": error[:1].mean(),
        "pseudo_distance": error[1:].mean(),
        "supervised_dice": dice_loss(probabilities[:1], truth[:1]),
        "pseudo_dice": dice_loss(probabilities[1:], truth[1:]),
        "supervised_implied_dice": dice_loss(implied[:1], truth[:1]),
        "pseudo_implied_dice": dice_loss(implied[1:], truth[1:]),
        "consistency": ((implied - probabilities) ** 2).mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].value, value, msg=name)


def test_perfect_outputs_agree() -> None:
    batch = make_batch(3)
    foreground = signed_distances(batch.label, 3)
    # On the inner boundary the map is 0 and the implied mask 0.5: shift it inside.
    distance = torch.cat([torch.zeros_like(foreground[:, :1]), foreground - 0.01], dim=1)
    logits = 50 * one_hot(batch.label, 3)
    terms = make_method("dtc", small_student("dtc", 3), 3).losses(answer((distance, logits)), batch, 9)
    assert terms["supervised_distance"].value.item() == pytest.approx(0.01, abs=1e-6)
    for name in ("supervised_dice", "supervised_implied_dice", "consistency"):
        assert terms[name].value.item() < 1e-4, name


def test_distance_head_of_the_network_is_trained() -> None:
    student = build_network("unet_3D_sdf", 3)
    terms = make_method("dtc", student, 3).losses(student, make_batch(3), 9)
    terms["supervised_distance"].value.backward()
    assert reached(student.final2.weight.grad, 0) == [False, True, True]
    assert student.final.weight.grad is None
    assert student.conv1.conv1[0].weight.grad.abs().max() > 0
