"""The U-Nets: recorded outputs, published key names, initialization."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from golden_inputs import fill, golden, shapes, volume
from semisam_o1.networks import build_network


@pytest.mark.parametrize("classes", [2, 3])
def test_state_dicts_have_the_published_keys_and_shapes(classes: int) -> None:
    recorded = golden("network_state_dicts.json")
    for name in ("unet_3D", "unet_3D_sdf"):
        assert shapes(build_network(name, classes)) == recorded[f"{name}_c{classes}"]


@pytest.mark.parametrize("classes", [2, 3])
def test_outputs_match_the_recorded_ones(classes: int) -> None:
    recorded = {key: torch.from_numpy(value) for key, value in golden("networks.npz").items()}
    x = volume((1, 1, 32, 48, 32), 21)
    with torch.no_grad():
        logits = fill(build_network("unet_3D", classes)).eval()(x)
        distance, sdf_logits = fill(build_network("unet_3D_sdf", classes)).eval()(x)
    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(logits, recorded[f"unet_3D_c{classes}"], **close)
    torch.testing.assert_close(distance, recorded[f"unet_3D_sdf_c{classes}_tanh"], **close)
    torch.testing.assert_close(sdf_logits, recorded[f"unet_3D_sdf_c{classes}_seg"], **close)


@pytest.mark.parametrize("name", ["unet_3D", "unet_3D_sdf"])
def test_logits_are_the_class_scores_alone(name: str) -> None:
    network = build_network(name, 4).eval()
    x = volume((2, 1, 16, 32, 48), 1)
    with torch.no_grad():
        whole, logits = network(x), network.logits(x)
    assert logits.shape == (2, 4, 16, 32, 48)
    assert torch.equal(logits, whole if name == "unet_3D" else whole[1])


@pytest.mark.parametrize("name", ["unet_3D", "unet_3D_sdf"])
def test_dropout_acts_after_the_bottom_and_the_last_block_in_training_alone(name: str) -> None:
    network = build_network(name, 2)
    places = []
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            assert module.p == 0.3
            module.register_forward_hook(lambda module, args, output: places.append((args[0], output)))
    x = volume((1, 1, 16, 16, 32), 2)
    with torch.no_grad():
        network(x)
        assert [tuple(before.shape[1:]) for before, _ in places] == [(256, 1, 1, 2), (16, 16, 16, 32)]
        # Half of what follows a ReLU is 0 anyway: look at the rest.
        dropped = [(after[before > 0] == 0).float().mean().item() for before, after in places]
        assert dropped == pytest.approx([0.3, 0.3], abs=0.15)
        network.eval()
        assert torch.equal(network.logits(x), network.logits(x))


def test_initialization_is_kaiming_normal_and_depends_on_the_generator_alone() -> None:
    networks = [build_network("unet_3D", 2).initialize(torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    first, same, other = (torch.cat([p.flatten() for p in network.parameters()]) for network in networks)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    weight = networks[0].center.conv1[0].weight
    expected = (2 / weight[0].numel()) ** 0.5
    assert weight.std().item() == pytest.approx(expected, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=expected / 100)


def test_unknown_network_is_refused() -> None:
    with pytest.raises(ValueError, match="unet_2D"):
        build_network("unet_2D", 2)
