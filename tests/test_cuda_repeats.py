"""A GPU computes the same bits every time, and nothing that is copied to it is waited for.

Skipped where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from method_helpers import make_batch, make_method
from semisam_o1.data.sampling.augmentation import Augmentation, Donor, Warps, quantiles
from semisam_o1.data.sampling.batches import BatchSettings, BatchStream
from semisam_o1.data.sampling.fields import indices
from semisam_o1.methods import METHODS
from semisam_o1.networks import build_network
from semisam_o1.propagation.registration import Channels, register
from volume_source import Source

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

# Kernels of CUDA that PyTorch lists as nondeterministic (torch.use_deterministic_algorithms).
RANDOM_ORDER = {
    *("avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_trilinear3d_backward"),
    *("replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward"),
    *("index_add", "index_add_", "index_reduce", "scatter_add", "scatter_add_", "scatter_reduce", "put_"),
    *("cumsum", "cumsum_", "histc", "kthvalue", "median", "embedding_dense_backward", "_ctc_loss_backward"),
}


class Repeatable(TorchDispatchMode):
    """Raises where a kernel adds in random order."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in RANDOM_ORDER, f"{name} adds in random order"
        if name == "max_pool3d_with_indices_backward":  # without overlap, a voxel receives one value
            assert args[3] == [] or args[2] == args[3], f"{name} of overlapping windows adds in random order"
        if name == "grid_sampler_3d_backward":  # coordinates have one gradient each, values many
            assert not args[6][0], f"{name} adds the gradient of the values in random order"
        if name == "nll_loss2d_forward":
            assert args[3] == 0, f"{name} adds up its mean in random order"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"),
        lambda x: F.pad(x, [1] * 6, mode="replicate"),
        lambda x: F.avg_pool3d(x, 3, stride=1),
        lambda x: F.max_pool3d(x, 3, stride=1),
        lambda x: F.grid_sample(x, torch.zeros(1, 2, 2, 2, 3, device="cuda"), align_corners=True),
        lambda x: F.cross_entropy(x, torch.zeros(1, 4, 4, 4, dtype=torch.int64, device="cuda")),
    ],
)
def test_the_check_finds_what_adds_in_random_order(compute) -> None:
    x = torch.randn(1, 2, 4, 4, 4).cuda().requires_grad_()
    with pytest.raises(AssertionError, match="in random order"), Repeatable():
        compute(x).sum().backward()


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("name", METHODS)
def test_an_iteration_repeats(name: str) -> None:
    torch.backends.cudnn.deterministic = True
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        network = build_network(METHODS[name].network, 3, generator=torch.Generator().manual_seed(1))
        student = network.cuda().train()
        method, batch = make_method(name, student, classes=3), make_batch(classes=3).to(torch.device("cuda"))
        optimizer = method.make_optimizer(student)
        with Repeatable():
            for t in range(2):
                with torch.autocast("cuda", torch.bfloat16):
                    terms = method.losses(student, batch, t)
                optimizer.zero_grad()
                sum(term.value * term.weight for term in terms.values()).backward()
                optimizer.step()
                method.after_step(student, batch, t)
        values = [term.value.detach() for term in terms.values()]
        found.append([value.cpu() for value in (*values, *student.state_dict().values())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_registration_repeats() -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = ((15, 12, 9), (14, 13, 10))
    fixed, moving = (Channels(torch.rand(4, *shape, generator=generator).cuda()) for shape in shapes)
    found = []
    for _ in range(2):
        with Repeatable():
            found.append(register(fixed, moving, indices((15, 12, 9), fixed.values.device)).cpu())
    assert torch.equal(*found)
    assert found[0].any()


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Raise where the host waits for the GPU, as for copies of what is not pinned."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def make_stream(store: str, device: str, intensity: bool = True) -> BatchStream:
    """Return augmented batches of volumes on the device ``store``."""
    generator = torch.Generator().manual_seed(1)
    images = {name: torch.rand(20, 34, 18, generator=generator).to(store) for name in "ab"}
    labels = {name: (image > 0.5).to(torch.uint8) for name, image in images.items()}
    weights = {name: label.new_full((), 255).expand_as(label) for name, label in labels.items()}
    donor = Donor((22, 30, 20), indices((22, 30, 20), store), torch.eye(3, 4).to(store), quantiles(images["b"] * 2))
    augmentation = Augmentation(True, intensity, Warps("a", quantiles(images["a"]), [donor]))
    settings = BatchSettings((16, 32, 16), 1, 3, length=6, seed=(3,), augmentation=augmentation)
    source = Source(images.__getitem__, labels.__getitem__, weights.__getitem__)
    return BatchStream(["a"], ["b"], source, settings, device=torch.device(device))


@pytest.mark.parametrize("store", ["cpu", "cuda"])
def test_augmented_batches_wait_for_no_copy(store: str, request: pytest.FixtureRequest) -> None:
    stream = make_stream(store, "cuda")
    assert stream[0].image.device.type == "cuda"
    request.getfixturevalue("no_waiting")
    for t in range(6):
        assert stream[t].weight.device.type == "cuda"


def test_volumes_in_ram_are_augmented_on_the_gpu_as_on_the_cpu() -> None:
    on_gpu, on_cpu = make_stream("cpu", "cuda", intensity=False), make_stream("cpu", "cpu", intensity=False)
    for t in range(6):
        found, wanted = on_gpu[t], on_cpu[t]
        torch.testing.assert_close(found.image.cpu(), wanted.image, atol=1e-3, rtol=1e-3)
        assert (found.label.cpu() != wanted.label).float().mean() < 1e-3
        assert (found.weight.cpu() != wanted.weight).float().mean() < 1e-3


def test_a_registration_waits_for_no_copy(request: pytest.FixtureRequest) -> None:
    fixed, moving = (Channels(torch.rand(4, *shape).cuda()) for shape in ((15, 12, 9), (14, 13, 10)))
    start = indices((15, 12, 9), fixed.values.device)
    register(fixed, moving, start)
    request.getfixturevalue("no_waiting")
    register(fixed, moving, start)
