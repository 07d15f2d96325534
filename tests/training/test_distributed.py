"""Two processes compute what one computes; one process needs no group."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from golden_inputs import volume
from method_helpers import make_batch, make_method, small_student
from narrow_networks import narrow
from semisam_o1.core import distributed
from semisam_o1.core.errors import InputError, Interrupted
from semisam_o1.data.sampling.batches import Batch, BatchSettings, BatchStream
from semisam_o1.methods import METHODS as OF_COMMAND_LINE
from semisam_o1.methods import dtc
from semisam_o1.methods.losses import dice_loss, one_hot
from semisam_o1.networks import build_network
from semisam_o1.runs.layout import RunFolder
from semisam_o1.training.stopping import StopRequest
from semisam_o1.training.tracking import Tracker
from semisam_o1.training.trainer import RoundContext, RoundTrainer, TrainingOptions
from volume_source import Source

RANKS = 2
STEPS = 4  # of training


def seven_squares() -> list[int]:
    return distributed.share_out(lambda number: number**2, range(7))


def stopped_on(rank: int) -> str:
    """Return what share_out raises where one rank is asked to stop."""

    def work(number: int) -> int:
        if distributed.rank() == rank and number > 3:
            raise Interrupted("asked to stop")
        return number

    try:
        distributed.share_out(work, range(7))
    except Interrupted as error:
        return str(error)
    return "not stopped"


def on_main() -> str:
    """Return what every rank raises where rank 0 does."""

    def refuse() -> None:
        assert distributed.is_main(), "work of rank 0 alone"
        raise InputError("a.h5 is missing")

    try:
        distributed.on_main(refuse)
    except InputError as error:
        return str(error)
    return "nothing"


def share(batch: Batch, rank: int, ranks: int) -> Batch:
    """Return the part of a batch that one rank gets from ``BatchStream``."""
    items = list(range(len(batch.label)))
    own = items[: batch.labeled][rank::ranks] + items[batch.labeled :][rank::ranks]
    return Batch(batch.image[own], batch.label[own], batch.labeled // ranks, tuple(batch.names[i] for i in own))


def dice_gradient(rank: int, ranks: int) -> tuple[Tensor, Tensor]:
    """Return the Dice loss and its gradient, from one rank's share of four items."""
    batch = share(make_batch(3, labeled=0, unlabeled=4), rank, ranks)
    network = small_student("mt", 3)
    loss = dice_loss(network(batch.image).softmax(1), one_hot(batch.label, 3))
    loss.backward()
    distributed.average_gradients(network)
    return loss.detach(), network[0].weight.grad


def method_gradient(name: str, rank: int, ranks: int, noise: float) -> Tensor:
    """Return the student's gradient of a method's whole loss on two labeled and four unlabeled items."""
    batch = share(make_batch(labeled=2, unlabeled=4), rank, ranks)
    student = small_student(name)
    method = make_method(name, student, noise=noise, consistency=1e3, dropout=0.0)
    if name in ("mt", "uamt"):
        with torch.no_grad():
            method.teacher[0].weight.mul_(3)
    terms = method.losses(student, batch, 5)
    sum(term.value * term.weight for term in terms.values()).backward()
    distributed.average_gradients(student)
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


def simplify(patch: pytest.MonkeyPatch) -> None:
    """Make networks narrow, and DTC's sigmoid flat.

    As steep as it is, it lets a rounding error of 1e-7 grow to 1e-2 in four iterations, on one process as on two.
    """
    narrow(patch)
    patch.setattr(dtc, "STEEPNESS", 10)


def trained_weights(name: str, rank: int, ranks: int, folder: Path) -> Tensor:
    """Return the student's weights after a few iterations of the training loop, two labeled and four other items."""
    generator = torch.Generator().manual_seed(4)
    images = {key: torch.randn(20, 34, 18, generator=generator) for key in "abcdef"}
    labels = {key: (image > 0.3).to(torch.uint8) for key, image in images.items()}
    student = build_network(OF_COMMAND_LINE[name].network, 2, generator=torch.Generator().manual_seed(3))
    for module in student.modules():  # every rank draws its own
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    options = TrainingOptions(
        max_iterations=STEPS, num_rounds=1, val_interval=100, log_images=0, consistency=5.0, consistency_rampup=0.0
    )
    method = OF_COMMAND_LINE[name](student, options)
    if name == "dan":
        method.discriminator.dropout.p = 0.0
    sampling = BatchSettings((32, 32, 16), labeled_bs=2, batch_size=6, length=STEPS, seed=(5,))
    source = Source(images.__getitem__, labels.__getitem__)
    batches = BatchStream(["a", "b"], ["c", "d", "e", "f"], source, sampling, (rank, ranks))
    run = RunFolder(folder / f"{name}-{ranks}", method.network)
    run.path.mkdir(exist_ok=True)
    with Tracker(run) as tracker:
        context = RoundContext(1, 5, "fp32", 0, run, tracker, StopRequest())
        RoundTrainer(student, method, batches, lambda _: [0.5], options, context).run()
    return torch.cat([parameter.detach().flatten() for parameter in student.parameters()])


METHODS = [("mt", 0.0), ("uamt", 0.0), ("dan", 0.0), ("dtc", 0.0), ("mt", 0.1), ("uamt", 0.1)]


def compute(rank: int, ranks: int, folder: Path) -> dict:
    """Return everything that is compared between one process and two."""
    parts = torch.tensor([rank + 1.0, 10.0 * rank], requires_grad=True)
    total = distributed.sum_over_ranks(parts)
    (total * torch.tensor([1.0, 2.0])).sum().backward()
    frozen = nn.Linear(1, 1)
    distributed.average_gradients(frozen)
    distributed.barrier()
    return {
        "place": (distributed.rank(), distributed.world_size(), distributed.is_main()),
        "squares": seven_squares(),
        "few": distributed.share_out(str, [5]),
        "stopped": [stopped_on(0), stopped_on(1), stopped_on(2)],
        "on main": (on_main(), distributed.on_main(lambda: {"rank": distributed.rank()})),
        "sum": total.tolist(),
        "sum gradient": parts.grad.tolist(),
        "from main": distributed.from_main({"rank": rank}),
        "any": (distributed.any_rank(rank == 1), distributed.any_rank(False), distributed.any_rank(True)),
        "dice": dice_gradient(rank, ranks),
        "methods": [method_gradient(name, rank, ranks, noise) for name, noise in METHODS],
        "without gradient": frozen.weight.grad is None,
        "trained": {name: trained_weights(name, rank, ranks, folder) for name in OF_COMMAND_LINE},
    }


def run_rank(rank: int, port: int, folder: str) -> None:
    import os

    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(RANKS),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    simplify(pytest.MonkeyPatch())
    device = distributed.start(torch.device("cpu"))
    result = compute(rank, RANKS, Path(folder))
    torch.save(result | {"device": str(device)}, Path(folder) / f"{rank}.pt")
    distributed.stop()
    distributed.exit_process(0)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes computed."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_rank, (port, str(folder)), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What one process without a group computes."""
    with pytest.MonkeyPatch.context() as patch:
        simplify(patch)
        return compute(0, 1, tmp_path_factory.mktemp("alone"))


def test_one_process_is_rank_0_of_1(alone: dict) -> None:
    assert alone["place"] == (0, 1, True)
    assert alone["sum"] == [1, 0]
    assert alone["sum gradient"] == [1, 2]
    assert alone["from main"] == {"rank": 0}
    assert alone["any"] == (False, False, True)
    assert alone["squares"] == [0, 1, 4, 9, 16, 25, 36]


def test_start_without_torchrun_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert distributed.start(torch.device("cpu")) == torch.device("cpu")
    assert distributed.world_size() == 1
    distributed.stop()


def test_ranks_know_their_place(two_ranks: list[dict]) -> None:
    assert [result["place"] for result in two_ranks] == [(0, 2, True), (1, 2, False)]
    assert [result["device"] for result in two_ranks] == ["cpu", "cpu"]


def test_shared_work_comes_back_in_order(two_ranks: list[dict]) -> None:
    for result in two_ranks:
        assert result["squares"] == [0, 1, 4, 9, 16, 25, 36]
        assert result["few"] == ["5"]


def test_a_stop_of_one_rank_stops_all(two_ranks: list[dict], alone: dict) -> None:
    for result in two_ranks:
        assert result["stopped"] == ["asked to stop", "asked to stop", "not stopped"]
    assert alone["stopped"] == ["asked to stop", "not stopped", "not stopped"]


def test_what_rank_0_returns_or_raises_reaches_every_rank(two_ranks: list[dict], alone: dict) -> None:
    for result in [*two_ranks, alone]:
        assert result["on main"] == ("a.h5 is missing", {"rank": 0})


def test_sum_and_its_gradient(two_ranks: list[dict]) -> None:
    for result in two_ranks:
        assert result["sum"] == [3, 10]
        assert result["sum gradient"] == [2, 4]  # every rank's loss depends on every part


def test_values_and_flags_reach_every_rank(two_ranks: list[dict]) -> None:
    for result in two_ranks:
        assert result["from main"] == {"rank": 0}
        assert result["any"] == (True, False, True)


def test_dice_of_two_ranks_is_that_of_the_whole_batch(two_ranks: list[dict], alone: dict) -> None:
    for result in two_ranks:
        for value, expected in zip(result["dice"], alone["dice"], strict=True):
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", range(len(METHODS)), ids=[f"{name}-{noise}" for name, noise in METHODS])
def test_methods_on_two_ranks_have_the_gradient_of_one(case: int, two_ranks: list[dict], alone: dict) -> None:
    expected = alone["methods"][case]
    assert expected.abs().max() > 1e-3
    for result in two_ranks:
        torch.testing.assert_close(result["methods"][case], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", OF_COMMAND_LINE)
def test_training_on_two_ranks_ends_where_one_does(name: str, two_ranks: list[dict], alone: dict) -> None:
    expected = alone["trained"][name]
    first, second = (result["trained"][name] for result in two_ranks)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=0)


def test_gradients_that_are_missing_stay_missing(two_ranks: list[dict]) -> None:
    assert all(result["without gradient"] for result in two_ranks)


def test_sum_keeps_the_value_without_a_group() -> None:
    value = volume((3,), 1)
    assert distributed.sum_over_ranks(value) is value
