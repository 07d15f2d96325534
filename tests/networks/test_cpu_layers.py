"""Layers made for the CPU: what they compute, and that gradients in bf16 repeat, however small the patch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from semisam_o1.core.device import resolve_precision
from semisam_o1.data.sampling.fields import interpolation_matrix
from semisam_o1.methods.dan import Discriminator
from semisam_o1.networks import build_network
from semisam_o1.networks.layers import (
    Dropout,
    InstanceNorm,
    Linear,
    MaxPool,
    Upsample,
    _doubled_taps,
    channels_last,
    convolve_upsampled,
    is_channels_last,
)

native = pytest.mark.skipif(resolve_precision("auto", "cpu") != "bf16", reason="no bf16 arithmetic on this processor")


def gradient(module: torch.nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    module.zero_grad()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        output = module(*inputs)
    output.square().sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("patch", [(32, 48, 32), (16, 32, 16)])
def test_gradients_repeat(patch: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, *patch, generator=generator)
    probabilities = torch.randn(2, 3, *patch, generator=generator).softmax(1)
    cases = ((build_network("unet_3D", 3), (image,)), (Discriminator(3, width=16), (probabilities, image)))
    for module, inputs in cases:
        first = gradient(module, *inputs)
        for _ in range(3):
            torch.full((3_000_000,), float("nan"))  # what uninitialized memory then holds
            assert torch.equal(gradient(module, *inputs), first)
        assert torch.isfinite(first).all()


@pytest.mark.parametrize("shape", [(2, 3, 4, 6, 5), (1, 1, 1, 2, 1), (1, 2, 16, 3, 8)])
def test_upsampling_is_trilinear_interpolation(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    ours, plain = Upsample()(x), F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
    torch.testing.assert_close(ours, plain, atol=1e-12, rtol=0)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = [torch.autograd.grad(output, x, upstream)[0] for output in (ours, plain)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)
    # Three roundings to 8 bits instead of one.
    coarse = Upsample()(x.detach().bfloat16()).double()
    assert (coarse - plain).abs().max() <= 0.02 * plain.abs().max()


@pytest.mark.parametrize("shape", [(2, 3, 4, 6, 8), (1, 1, 2, 2, 2), (1, 2, 5, 4, 7)])
def test_pooling_is_that_of_pytorch_with_and_without_gradient(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
    pooled = F.max_pool3d(x, 2)
    assert torch.equal(MaxPool()(x), pooled)
    assert MaxPool()(x).requires_grad
    with torch.no_grad():
        assert torch.equal(MaxPool()(x), pooled)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_pooling_keeps_the_precision_under_autocast(dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 4, 4, 4).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert MaxPool()(x).dtype == dtype


@native
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_lie_last_in_bf16_alone(channels: int) -> None:
    x = torch.randn(2, channels, 4, 5, 6)
    assert channels_last(x) is x
    with torch.autocast("cpu", torch.bfloat16):
        moved = channels_last(x)
        assert torch.equal(moved, x)
        features = torch.nn.Conv3d(channels, 16, 3, padding=1)(moved)
    assert is_channels_last(features)
    assert not is_channels_last(features.float())
    assert not is_channels_last(features.contiguous())


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_normalization_is_exact_in_every_layout(offset: float) -> None:
    generator = torch.Generator().manual_seed(1)
    contiguous = (torch.randn(2, 16, 24, 20, 28, generator=generator) * 2 + offset).bfloat16()
    upstream = torch.randn(contiguous.shape, generator=generator)
    exact = contiguous.double().requires_grad_()
    wanted = F.instance_norm(exact)
    (gradient,) = torch.autograd.grad(wanted, exact, upstream.double())
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        x = contiguous.contiguous(memory_format=layout).requires_grad_()
        normal = InstanceNorm(16)(x)
        assert normal.is_contiguous(memory_format=layout)
        (found,) = torch.autograd.grad(normal, x, upstream.bfloat16().contiguous(memory_format=layout))
        # A value or a gradient of 4 to 8 is rounded by up to 2⁻⁶.
        torch.testing.assert_close(normal.double(), wanted.detach(), atol=0.02, rtol=0.004)
        torch.testing.assert_close(found.double(), gradient, atol=0.01, rtol=0.004)
    assert not list(InstanceNorm(16).state_dict())


def test_normalization_keeps_its_epsilon() -> None:
    x = (1e-3 * torch.randn(2, 3, 4, 4, 4)).bfloat16().contiguous(memory_format=torch.channels_last_3d)
    found, wanted = InstanceNorm(3)(x).double(), F.instance_norm(x.double(), eps=1e-5)
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0.01)
    assert wanted.std() < 0.5  # the epsilon matters here


def test_a_large_volume_is_normalized_in_the_precise_way(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 4, 6, 6, 6).bfloat16().contiguous(memory_format=torch.channels_last_3d)
    batches = []
    monkeypatch.setattr(F, "batch_norm", lambda item, *rest, **options: batches.append(item) or item)
    InstanceNorm(4)(x)
    assert len(batches) == 1
    monkeypatch.setattr(InstanceNorm, "MAX_VOXELS", 6**3 - 1)
    torch.testing.assert_close(InstanceNorm(4)(x).double(), F.instance_norm(x.double()), atol=0.02, rtol=0.01)
    assert len(batches) == 1


@pytest.mark.parametrize("sides", [(4, 3, 5), (1, 2, 2), (2, 6, 1)])
def test_convolving_upsampled_is_to_concatenate_first(sides: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    skip, lower = (
        torch.randn(2, channels, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for channels, shape in ((3, [2 * side for side in sides]), (4, sides))
    )
    convolution = torch.nn.Conv3d(7, 5, 3, padding=1).double()
    leaves = (skip, lower, convolution.weight, convolution.bias)
    found = convolve_upsampled(convolution, skip, lower)
    upsampled = F.interpolate(lower, scale_factor=2, mode="trilinear", align_corners=False)
    plain = convolution(torch.cat([skip, upsampled], 1))
    torch.testing.assert_close(found, plain, atol=1e-12, rtol=0)
    upstream = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad(output, leaves, upstream) for output in (found, plain)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


@native
@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("shape", [(2, 1, 64, 64, 64), (1, 1, 32, 48, 32), (5, 1, 16, 32, 16)])
def test_no_level_of_the_network_falls_out_of_the_layout(shape: tuple[int, ...]) -> None:
    network, kept = build_network("unet_3D", 2), {}
    for name in ("conv1", "conv2", "up_concat1", "up_concat2"):
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: kept.update({name: output})
        )
    with torch.autocast("cpu", torch.bfloat16):
        features = network.decode(torch.randn(shape))
    assert is_channels_last(features)
    assert all(is_channels_last(output) for output in kept.values())
    assert len(kept) == 4


@native
@pytest.mark.parametrize("name", ["unet_3D", "unet_3D_sdf"])
def test_bf16_is_float32_but_for_rounding(name: str) -> None:
    """The layers differ between the two; what the network computes does not, nor do the last gradients."""
    generator = torch.Generator().manual_seed(1)
    network = build_network(name, 3, dropout=0.0, generator=generator)
    image = torch.randn(2, 1, 64, 80, 64, generator=generator)
    found = {}
    for enabled in (True, False):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = network.logits(image)
        assert logits.dtype == torch.float32
        logits.square().mean().backward()
        found[enabled] = [
            logits.detach(),
            network.final.weight.grad.clone(),
            network.up_concat1.conv.conv2[0].weight.grad,
        ]
    for coarse, exact in zip(found[True], found[False], strict=True):
        assert (coarse - exact).square().mean() < 0.06**2 * exact.square().mean()


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_inference_before_does_not_spoil_training(precision: torch.dtype) -> None:
    interpolation_matrix.cache_clear()
    _doubled_taps.cache_clear()
    network, image = build_network("unet_3D", 2), torch.randn(1, 1, 64, 64, 64)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        with torch.inference_mode():
            network.eval()(image)
        network.train()(image).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    assert (_doubled_taps if precision == torch.bfloat16 else interpolation_matrix).cache_info().hits


def test_a_linear_layer_is_that_of_pytorch() -> None:
    layer, x = Linear(24, 7), torch.randn(2, 3, 5, 24, requires_grad=True)
    ours, plain = layer(x), F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
    for a, b in zip(
        *(torch.autograd.grad(out.square().sum(), (x, layer.weight)) for out in (ours, plain)), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("p", [0.3, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_and_scales(p: float, dtype: torch.dtype) -> None:
    x = torch.ones(101, 99, 101, dtype=dtype, requires_grad=True)
    torch.manual_seed(1)
    dropped = Dropout(p)(x)
    torch.manual_seed(1)
    assert torch.equal(Dropout(p)(x), dropped)
    assert not torch.equal(Dropout(p)(x), dropped)
    assert dropped.dtype == dtype
    assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=0.002)
    assert dropped.double().mean().item() == pytest.approx(1, abs=0.005)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped)  # of ones, the gradient is the mask
    neighbors = (dropped[1:] == 0) & (dropped[:-1] == 0)
    assert neighbors.float().mean().item() == pytest.approx(p**2, abs=0.002)


def test_dropout_keeps_the_layout() -> None:
    x = torch.ones(2, 8, 4, 6, 5).contiguous(memory_format=torch.channels_last_3d)
    dropped = Dropout(0.5)(x)
    assert dropped.is_contiguous(memory_format=torch.channels_last_3d)
    assert Dropout(0.5)(torch.ones(3, 1).expand(3, 5)).shape == (3, 5)


def test_dropout_of_nothing_and_in_evaluation_is_the_identity() -> None:
    x = torch.randn(5, 3)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(0.3).eval()(x), x)
    assert (Dropout(1.0)(x) == 0).all()
