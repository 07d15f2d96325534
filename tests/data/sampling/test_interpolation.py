"""Interpolation with a gradient by matrices: PyTorch's values and gradients, in every layout."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from semisam_o1.data.sampling.fields import _Interpolation, interpolate


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("shape", [(8, 12, 10), (5, 9, 3), (4, 6, 5), (1, 2, 20)])
def test_the_gradient_by_matrices_is_that_of_pytorch(shape: tuple[int, int, int], layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 4, 6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    plain = F.interpolate(x, shape, mode="trilinear", align_corners=False)
    found = _Interpolation.apply(x, shape)
    assert torch.equal(found, plain)
    upstream = torch.randn(plain.shape, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)
    ours, theirs = (torch.autograd.grad(output, x, upstream)[0] for output in (found, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    assert ours.is_contiguous(memory_format=layout)


def test_the_gradient_in_bf16_is_rounded_once_per_axis() -> None:
    x = torch.randn(1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    upstream = torch.randn(1, 2, 16, 16, 16, generator=torch.Generator().manual_seed(2)).bfloat16()
    (found,) = torch.autograd.grad(_Interpolation.apply(x, (16, 16, 16)), x, upstream)
    exact = x.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(interpolate(exact, (16, 16, 16)), exact, upstream.double())
    assert (found - wanted).square().mean() < 0.005**2 * wanted.square().mean()
