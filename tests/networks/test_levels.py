"""Levels of the network: which suit a patch, and that a network with them differs in nothing else."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from semisam_o1.networks import build_network
from semisam_o1.networks.layers import MaxPool, Upsample
from semisam_o1.networks.levels import ISOTROPIC, activations, choose_levels, divisors, parse_levels

HEART = "331/221 333/222 333/221 333/221"  # ten slices of 10 mm


@pytest.mark.parametrize(
    ("patch", "spacing", "levels", "divided_by"),
    [
        ((128, 128, 128), (1, 1, 1), ISOTROPIC, (16, 16, 16)),
        ((32, 48, 32), (1, 1, 1), ISOTROPIC, (16, 16, 16)),
        ((112, 112, 80), (0.625, 0.625, 1.0), ISOTROPIC, (16, 16, 16)),
        ((96, 112, 10), (3, 3, 10), HEART, (16, 16, 2)),
        ((96, 112, 7), (3, 3, 10), "331/221 333/221 333/221 333/221", (16, 16, 1)),  # too few to be halved
        ((12, 112, 112), (5, 0.8, 0.8), "133/122 133/122 333/222 333/122", (2, 16, 16)),
        ((192, 192, 32), (0.8, 0.8, 5), "331/221 331/221 333/222 333/222", (16, 16, 4)),
        ((96, 96, 16), (1, 1, 1), "333/222 333/222 333/221 333/221", (16, 16, 4)),  # short, but not thick
        ((64, 64, 6), (3, 3, 10), "331/221 333/221 333/221 333/112", (8, 8, 2)),
    ],
)
def test_an_axis_is_halved_while_it_is_fine_and_long_enough(
    patch: tuple[int, ...], spacing: tuple[float, ...], levels: str, divided_by: tuple[int, ...]
) -> None:
    assert choose_levels(patch, spacing) == levels
    assert divisors(levels) == divided_by


def test_levels_are_read_strictly() -> None:
    assert [str(level) for level in parse_levels(HEART)] == HEART.split()
    for wrong in ("", "auto", HEART + " 333/222", HEART.replace("331/221", "332/221"), HEART.replace(" ", "  ", 1)):
        with pytest.raises(ValueError, match="kernel/stride of 4 levels"):
            parse_levels(wrong)


def test_activations_count_what_is_not_halved() -> None:
    assert activations(ISOTROPIC) == 1
    per_level = [1, 2 / 4, 4 / 32, 8 / 128, 16 / 512]  # width times share of the voxels
    assert activations(HEART) == pytest.approx(sum(per_level) / sum((2 / 8) ** level for level in range(5)))


@pytest.mark.parametrize("name", ["unet_3D", "unet_3D_sdf"])
def test_levels_change_neither_names_nor_what_nothing_anisotropic_gives(name: str) -> None:
    plain, spelled, heart = (
        build_network(name, 3, generator=torch.Generator().manual_seed(1), levels=levels).eval()
        for levels in (ISOTROPIC, "333/222 333/222 333/222 333/222", HEART)
    )
    assert list(heart.state_dict()) == list(plain.state_dict())
    x = torch.randn(1, 1, 16, 32, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(plain.logits(x), spelled.logits(x))
        assert heart.logits(x[..., :6]).shape == (1, 3, 16, 32, 6)
    assert heart.conv1.conv2[0].weight.shape == heart.up_concat1.conv.conv2[0].weight.shape == (16, 16, 3, 3, 1)
    assert heart.center.conv1[0].weight.shape == (256, 128, 3, 3, 3)


@pytest.mark.parametrize("levels", [HEART, "133/122 133/122 333/222 333/222"])
def test_an_anisotropic_network_computes_the_same_in_bf16(levels: str) -> None:
    network = build_network("unet_3D", 2, generator=torch.Generator().manual_seed(1), dropout=0.0, levels=levels)
    x = torch.randn(2, 1, 32, 32, 16, generator=torch.Generator().manual_seed(2))
    results = []
    for enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = network(x)
        logits.square().mean().backward()
        results.append((logits.detach(), network.up_concat1.conv.conv1[0].weight.grad.clone()))
    for exact, found in zip(*results, strict=True):
        assert (found - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("factors", [(2, 2, 1), (1, 2, 2), (1, 1, 1)])
def test_axes_that_are_not_halved_stay(factors: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, 4, 6, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    upsampled = F.interpolate(x, scale_factor=factors, mode="trilinear", align_corners=False)
    torch.testing.assert_close(Upsample(factors)(x), upsampled, atol=1e-5, rtol=0)
    pooled = F.max_pool3d(x, factors)
    assert torch.equal(MaxPool(factors)(x), pooled)
    with torch.no_grad():
        assert torch.equal(MaxPool(factors)(x), pooled)
