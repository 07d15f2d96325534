"""bf16 on the CPU gives the same, finite gradients every time, however small the patch."""

from __future__ import annotations

import pytest
import torch

from semisam_o1.networks import build_network
from semisam_o1.networks.discriminator import Discriminator


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
