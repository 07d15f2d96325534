"""The memory that a step is expected to take on a GPU, against what ``benchmarks/bench_memory.py`` computes."""

from __future__ import annotations

import pytest

from semisam_o1.methods import METHODS

# GiB at the peak of a step, added up with tensors that have no values.
# Method; side of a patch, items, classes; in bf16 and in float32.
COMPUTED = [
    ("mt", 64, 2, 2, 0.46, 0.72),
    ("mt", 96, 2, 2, 1.36, 2.27),
    ("mt", 128, 2, 2, 3.13, 5.31),
    ("mt", 128, 4, 2, 6.17, 10.54),
    ("mt", 128, 8, 2, 12.22, 20.97),
    ("mt", 128, 2, 4, 3.24, 5.42),
    ("uamt", 64, 2, 2, 1.20, 1.68),
    ("uamt", 96, 2, 2, 3.86, 5.52),
    ("uamt", 128, 2, 2, 6.13, 9.21),
    ("uamt", 128, 4, 2, 9.45, 14.72),
    ("uamt", 128, 8, 2, 15.74, 25.38),
    ("uamt", 128, 2, 4, 6.23, 9.31),
    ("dan", 64, 2, 2, 0.53, 0.72),
    ("dan", 96, 2, 2, 1.37, 2.05),
    ("dan", 128, 2, 2, 3.08, 4.69),
    ("dan", 128, 4, 2, 5.91, 9.14),
    ("dan", 128, 8, 2, 11.52, 17.99),
    ("dan", 128, 2, 4, 3.01, 4.75),
    ("dtc", 64, 2, 2, 0.86, 1.09),
    ("dtc", 96, 2, 2, 1.58, 2.40),
    ("dtc", 128, 2, 2, 2.91, 4.69),
    ("dtc", 128, 4, 2, 5.75, 9.33),
    ("dtc", 128, 8, 2, 11.39, 18.62),
    ("dtc", 128, 2, 4, 3.41, 5.36),
]


@pytest.mark.parametrize(("name", "side", "items", "classes", "half", "full"), COMPUTED)
def test_the_estimate_is_enough_and_not_much_more(
    name: str, side: int, items: int, classes: int, half: float, full: float
) -> None:
    for computed, in_half in ((half, True), (full, False)):
        estimate = METHODS[name].step_bytes(side**3, items // 2, items // 2, classes, in_half) / 2**30
        assert computed < estimate < 1.13 * computed + 0.5
