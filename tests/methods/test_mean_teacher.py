"""Mean Teacher: its term by hand, its noise, and how the teacher follows."""

from __future__ import annotations

import pytest
import torch

from golden_inputs import volume
from method_helpers import ITERATIONS, make_batch, make_method, small_student, train_step


@pytest.mark.parametrize("name", ["mt", "uamt"])
def test_teacher_never_receives_gradient(name: str) -> None:
    student = small_student(name)
    method = make_method(name, student)
    terms = method.losses(student, make_batch(), ITERATIONS)
    sum(term.value for term in terms.values()).backward()
    assert student[0].weight.grad.abs().max() > 0
    for parameter in method.teacher.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None
    assert method.teacher.training, "dropout stays active"


@pytest.mark.parametrize("name", ["mt", "uamt"])
def test_teacher_is_the_moving_average_of_the_student(name: str) -> None:
    student, batch = small_student(name), make_batch()
    method = make_method(name, student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    for t, decay in ((0, 0.0), (1, 0.5), (2, 2 / 3), (1000, 0.99)):
        before = method.teacher[0].weight.clone()
        train_step(method, student, optimizer, batch, t)
        expected = decay * before + (1 - decay) * student[0].weight.detach()
        torch.testing.assert_close(method.teacher[0].weight, expected)
        if t == 0:
            assert torch.equal(method.teacher[0].weight, student[0].weight)


def test_consistency_is_the_mean_squared_difference_of_the_unlabeled_items() -> None:
    batch, student = make_batch(3, labeled=1, unlabeled=2), small_student("mt", 3, seed=1)
    method = make_method("mt", student, 3, noise=0)
    method.teacher.load_state_dict(small_student("mt", 3, seed=2).state_dict())
    with torch.no_grad():
        ours, theirs = (network(batch.image[1:]).softmax(1) for network in (student, method.teacher))
    value = method.losses(student, batch, 5)["consistency"].value
    torch.testing.assert_close(value, ((ours - theirs) ** 2).mean())


def test_noise_is_clipped_gaussian_and_depends_on_seed_and_iteration() -> None:
    image = volume((2, 1, 20, 30, 40), 3)
    first, second = make_method("mt", small_student("mt"), noise=0.1).add_noise(image, 4, draws=2)
    noise = first - image
    assert noise.abs().max() <= 0.2 + 1e-6
    assert (noise.abs() > 0.199).float().mean().item() == pytest.approx(0.0455, abs=0.005)
    assert noise.mean().item() == pytest.approx(0, abs=0.002)
    assert noise.std().item() == pytest.approx(0.1 * 0.96, abs=0.002)
    assert not torch.equal(first, second)

    def draw(t: int, seed: int) -> torch.Tensor:
        return make_method("mt", small_student("mt"), noise=0.1, seed=seed).add_noise(image, t)[0]

    assert torch.equal(draw(4, 1), draw(4, 1))
    assert not torch.equal(draw(4, 1), draw(5, 1))
    assert not torch.equal(draw(4, 1), draw(4, 2))


def test_teacher_sees_the_noise_and_the_student_does_not() -> None:
    batch, student = make_batch(), small_student("mt")
    method = make_method("mt", student, noise=0.1)
    seen = {}
    student.register_forward_pre_hook(lambda module, args: seen.update(student=args[0]))
    method.teacher.register_forward_pre_hook(lambda module, args: seen.update(teacher=args[0]))
    method.losses(student, batch, 3)
    assert torch.equal(seen["student"], batch.image)
    assert torch.equal(seen["teacher"], method.add_noise(batch.image[1:], 3)[0])


def test_the_teacher_comes_out_of_training_only_if_asked_for() -> None:
    student = small_student("mt")
    assert make_method("mt", student).eval_model(student) is student
    method = make_method("mt", student, use_teacher=True)
    assert method.eval_model(student) is method.teacher
    other = small_student("dan")
    assert make_method("dan", other, use_teacher=True).eval_model(other) is other


def test_the_teacher_starts_as_an_independent_copy_in_training_mode() -> None:
    student = small_student("mt").eval()
    method = make_method("mt", student)
    before = method.teacher[0].weight.clone()
    assert torch.equal(before, student[0].weight)
    with torch.no_grad():
        student[0].weight.add_(1)
    assert torch.equal(method.teacher[0].weight, before)
    assert (method.teacher.training, student.training) == (True, False)
    assert all(parameter.requires_grad for parameter in student.parameters())
