"""Layers made for the CPU: what they compute, and that gradients in bf16 repeat, however small the patch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from semisam_o1.networks import build_network
from semisam_o1.networks.discriminator import Discriminator
from semisam_o1.networks.on_cpu import Dropout, Linear, MaxPool, PointConvolution, Upsample


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
            torch.full((3_000_000,), float("nan"))  # what uninitialised memory then holds
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


def test_a_point_convolution_is_a_convolution() -> None:
    layer, x = PointConvolution(16, 3), torch.randn(2, 16, 3, 4, 2)
    assert set(layer.state_dict()) == {"weight", "bias"}
    assert torch.equal(layer(x), F.conv3d(x, layer.weight, layer.bias))
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        layer.zero_grad()
        leaf = x.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = layer(leaf)
        assert output.dtype == dtype
        output.float().square().sum().backward()
        found.append([output, leaf.grad, layer.weight.grad.clone(), layer.bias.grad.clone()])
    for coarse, exact in zip(*found, strict=True):
        assert (coarse.float() - exact).abs().max() < 0.02 * exact.abs().max()


def test_inference_before_does_not_spoil_training() -> None:
    x = torch.randn(1, 2, 23, 3, 2, requires_grad=True)
    with torch.inference_mode():
        Upsample()(x)
    Upsample()(x).sum().backward()
    assert torch.isfinite(x.grad).all()


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
    neighbours = (dropped[1:] == 0) & (dropped[:-1] == 0)
    assert neighbours.float().mean().item() == pytest.approx(p**2, abs=0.002)


def test_dropout_of_nothing_and_in_evaluation_is_the_identity() -> None:
    x = torch.randn(5, 3)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(0.3).eval()(x), x)
    assert (Dropout(1.0)(x) == 0).all()
