"""DAN's discriminator: recorded verdicts, key names, any patch divisible by 16."""

from __future__ import annotations

import pytest
import torch

from golden_inputs import fill, golden, shapes, volume
from semisam_o1.methods.dan import Discriminator


def test_state_dict_has_the_published_keys_and_shapes() -> None:
    recorded = golden("network_state_dicts.json")
    (key,) = [key for key in recorded if "discriminator" in key.lower()]
    assert shapes(Discriminator(2)) == recorded[key]


def test_verdict_matches_the_recorded_one() -> None:
    discriminator = fill(Discriminator(2)).eval()
    with torch.no_grad():
        verdict = discriminator(volume((2, 2, 96, 96, 96), 22).softmax(dim=1), volume((2, 1, 96, 96, 96), 23))
    recorded = torch.from_numpy(golden("networks.npz")["discriminator_96"])
    torch.testing.assert_close(verdict, recorded, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(16, 16, 16), (32, 16, 48)])
def test_any_patch_divisible_by_16_is_judged(shape: tuple[int, ...]) -> None:
    discriminator = Discriminator(3, width=8).eval()
    with torch.no_grad():
        verdict = discriminator(volume((2, 3, *shape), 1).softmax(1), volume((2, 1, *shape), 2))
    assert verdict.shape == (2, 2)
