"""The choice of the fastest way to compute, with made-up times: greedy, bounded in time, never something else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semisam_o1.core.seeding import torch_generator
from semisam_o1.methods import METHODS, MethodOptions
from semisam_o1.networks import build_network
from semisam_o1.networks.kernels import Kernels
from semisam_o1.training.tuning import TOLERANCE, TrainingTrial, choices, fastest, table

LAST = Kernels("channels_last")


class FakeTrial:
    """Steps that take made-up seconds on a made-up clock; what is not listed takes as long as the reference.

    Args:
        seconds: of a step of kernels, or the error that they end with.
        deviations: of their gradient.
    """

    def __init__(self, seconds: dict[Kernels, float | Exception], deviations: dict[Kernels, float] | None = None):
        self.table, self.deviations, self.now = seconds, deviations or {}, 0.0

    def gradient(self, kernels: Kernels) -> Tensor:
        return torch.tensor([1.0, self.deviations.get(kernels, 0.0)])

    def seconds(self, kernels: Kernels) -> float:
        seconds = self.table.get(kernels, 0.1)
        if isinstance(seconds, Exception):
            raise seconds
        self.now += 4 * seconds  # a step that is not timed and three that are
        return seconds

    def clock(self) -> float:
        return self.now


def choose(trial: FakeTrial, backbone: str = "mt", deterministic: bool = True) -> tuple[Kernels, dict[Kernels, str]]:
    best, attempts = fastest(trial, choices(backbone, deterministic), 0.01, trial.clock)
    assert table(attempts, best).count("*") == 1
    return best, {attempt.kernels: attempt.remark for attempt in attempts}


def test_choices_are_made_one_after_another() -> None:
    moments, by_item = Kernels("channels_last", "moments"), Kernels("channels_last", "batch_norm")
    best, attempts = choose(FakeTrial({LAST: 0.08, moments: 0.06, by_item: 0.07, Kernels(norm="moments"): 0.01}))
    assert best == moments
    assert list(attempts) == [Kernels(), LAST, moments, by_item]


def test_nothing_faster_leaves_the_reference() -> None:
    assert choose(FakeTrial({}))[0] == Kernels()
    assert choose(FakeTrial({LAST: 0.098}))[0] == Kernels()  # may be noise
    assert choose(FakeTrial({LAST: 0.09}))[0] == LAST


@pytest.mark.parametrize("deviation", [0.02, float("nan")])
def test_what_computes_something_else_is_not_used(deviation: float) -> None:
    best, attempts = choose(FakeTrial({LAST: 0.01}, {LAST: deviation}))
    assert best == Kernels()
    assert attempts[LAST].startswith("not used: deviates by")


@pytest.mark.parametrize(
    ("error", "remark"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), "not used: out of memory"),
        (RuntimeError("not implemented\nfor this"), "not used: not implemented"),
    ],
)
def test_what_does_not_run_is_not_used(error: Exception, remark: str) -> None:
    best, attempts = choose(FakeTrial({LAST: error}))
    assert best == Kernels()
    assert attempts[LAST] == remark


def test_a_reference_that_does_not_run_is_an_error() -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError):
        choose(FakeTrial({Kernels(): torch.cuda.OutOfMemoryError("CUDA out of memory.")}))


def test_it_ends_in_time() -> None:
    trial = FakeTrial({Kernels(): 1.0, LAST: 1.0, Kernels(norm="moments"): 1.0})
    best, attempts = choose(trial)
    assert trial.now <= 10
    assert best == Kernels()
    assert [remark for remark in attempts.values() if "not tried" in remark] == ["not tried: time is up"] * 2


def test_choices_depend_on_the_method_and_the_promise() -> None:
    trial = FakeTrial({Kernels(joined=False): 0.05, Kernels(benchmark=True): 0.05})
    assert choose(trial)[0] == Kernels()
    assert choose(trial, "uamt")[0] == Kernels(joined=False)
    assert choose(trial, "mt", deterministic=False)[0] == Kernels(benchmark=True)


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("name", METHODS)
def test_rounding_alone_is_tolerated(name: str) -> None:
    gradients = []
    for precision in ("fp32", "bf16"):
        student = build_network(METHODS[name].network, 2, generator=torch_generator(3))
        options = MethodOptions(max_iterations=1000, base_lr=0.1)
        trial = TrainingTrial(student, name, options, (2, 1, 32, 32, 32), 1, torch.device("cpu"), precision)
        gradients.append(trial.gradient(Kernels()))
    assert 0 < (gradients[1] - gradients[0]).norm() / gradients[0].norm() < TOLERANCE["bf16"]
