"""Seeds derived from what they are for."""

from __future__ import annotations

import numpy as np
import torch

from semisam_o1.core.seeding import derive_seed, numpy_generator, torch_generator


def test_seeds_are_reproducible_and_differ_by_every_part_and_its_place() -> None:
    parts = [(1,), (1, 0), (1, 0, 0), (0, 1), (1, 2), (2, 1), (1337, 3, 15000)]
    seeds = [derive_seed(*part) for part in parts]
    assert seeds == [derive_seed(*part) for part in parts]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({derive_seed(a, b) for a in range(1, 20) for b in range(1, 20)}) == 19 * 19


def test_generators_repeat_and_differ() -> None:
    def numpy_draw(*parts: int) -> list[float]:
        return numpy_generator(*parts).random(4).tolist()

    def torch_draw(*parts: int) -> list[float]:
        return torch.rand(4, generator=torch_generator(*parts)).tolist()

    for draw in (numpy_draw, torch_draw):
        assert draw(3, 4) == draw(3, 4)
        assert draw(3, 4) != draw(3, 5)


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.rand(2, generator=torch_generator(5))
    numpy_generator(5).random(2)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])  # noqa: NPY002
