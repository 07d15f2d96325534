"""Instance normalization in all its ways, and the choice between them."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F

from semisam_o1.networks import build_network
from semisam_o1.networks.kernels import Kernels
from semisam_o1.networks.layers import NORMS, InstanceNorm


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_every_way_normalizes(name: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(1)
    x = (torch.randn(2, 5, 12, 10, 9, generator=generator) * 2 + 5).to(dtype).contiguous(memory_format=layout)
    upstream = torch.randn(x.shape, generator=generator).to(dtype).contiguous(memory_format=layout)
    exact = x.double().requires_grad_()
    wanted = F.instance_norm(exact)
    found = NORMS[name](x.requires_grad_(), 1e-5)
    assert found.dtype == dtype
    gradients = torch.autograd.grad(wanted, exact, upstream.double()), torch.autograd.grad(found, x, upstream)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02  # a value of 4 is rounded by 2⁻⁷ in bf16
    for ours, theirs in ((found, wanted), (gradients[1][0], gradients[0][0])):
        torch.testing.assert_close(ours.double(), theirs, atol=tolerance, rtol=0)
        assert ours.is_contiguous(memory_format=layout)


def test_a_constant_channel_stays_finite() -> None:
    for normalize in NORMS.values():
        x = torch.full((1, 2, 4, 4, 4), 7.0).bfloat16().requires_grad_()
        normal = normalize(x, 1e-5)
        assert normal.abs().max() < 0.1
        assert torch.isfinite(torch.autograd.grad(normal.sum(), x)[0]).all()


def test_kernels_reach_every_layer_and_copies_of_the_network() -> None:
    network = build_network("unet_3D_sdf", 2)
    Kernels("channels_last", "moments").apply(network)
    for other in (network, copy.deepcopy(network)):
        assert other.layout == "channels_last"
        assert {module.kernel for module in other.modules() if isinstance(module, InstanceNorm)} == {"moments"}
    assert build_network("unet_3D", 2).layout == "contiguous"


@pytest.mark.usefixtures("narrow_networks")
def test_a_cpu_ignores_them() -> None:
    network, image = build_network("unet_3D", 2).eval(), torch.randn(1, 1, 32, 16, 16)
    before = network(image)
    Kernels("channels_last", "moments").apply(network)
    assert torch.equal(network(image), before)


def test_kernels_survive_json_and_nothing_else_is_taken_for_them() -> None:
    kernels = Kernels("channels_last", "batch_norm", joined=False)
    content = dataclasses.asdict(kernels)
    assert Kernels.from_json(content) == kernels
    wrong = [content | {"norm": "other"}, content | {"layout": 3}, content | {"joined": 1}, content | {"more": 1}]
    for other in (None, [], "native", *wrong):
        assert Kernels.from_json(other) is None
