"""Nothing in an iteration asks for a value: on a GPU, the host would wait for it."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from method_helpers import make_batch, make_method
from semisam_o1.data.sampling.augmentation import Augmentation, Donor, Warps, quantiles
from semisam_o1.data.sampling.batches import BatchSettings, BatchStream
from semisam_o1.data.sampling.fields import indices
from semisam_o1.methods import METHODS
from semisam_o1.networks import build_network
from volume_source import Source

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero", "bincount"}


class NoWaiting(TorchDispatchMode):
    """Raises where an operation's result, or the size of it, has to be known on the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        by_mask = function.overloadpacket.__name__ in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        assert not by_mask, f"{function} by a mask waits for the device"
        assert function.overloadpacket.__name__ not in WAITING, f"{function} waits for the device"
        return function(*args, **(kwargs or {}))


def test_the_check_finds_what_waits() -> None:
    x = torch.arange(3.0)
    for wait in (lambda: x.sum().item(), lambda: bool(x.any()), lambda: x[x > 1], lambda: x.nonzero()):
        with pytest.raises(AssertionError, match="waits"), NoWaiting():
            wait()


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("name", METHODS)
def test_an_iteration_of_every_method(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)  # its counters live on the host and are read there
    student = build_network(METHODS[name].network, 3).train()
    method, batch = make_method(name, student, classes=3), make_batch(classes=3)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    with NoWaiting():
        for t in range(2):
            terms = method.losses(student, batch, t)
            optimizer.zero_grad()
            sum(term.value * term.weight for term in terms.values()).backward()
            optimizer.step()
            method.after_step(student, batch, t)


def test_batches_with_every_augmentation() -> None:
    image = torch.randn(20, 34, 18, generator=torch.Generator().manual_seed(1))
    label = (image > 0.5).to(torch.uint8)
    donor = Donor((22, 30, 20), indices((22, 30, 20)), torch.eye(3, 4), quantiles(image * 2))
    augmentation = Augmentation(True, True, Warps("a", quantiles(image), [donor]))
    settings = BatchSettings((16, 32, 16), 1, 2, length=6, seed=(3,), augmentation=augmentation)
    stream = BatchStream(["a"], ["b"], Source(lambda _: image, lambda _: label, lambda _: label * 255), settings)
    with NoWaiting():
        sums = torch.stack([stream[t].image.sum() for t in range(6)])
    assert len(set(sums.tolist())) == 6
