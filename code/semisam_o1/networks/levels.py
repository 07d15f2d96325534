"""The levels of a U-Net: the size of its kernels, and by which factor it halves each axis, for anisotropic patches.

A level that convolves along thick slices mixes what lies far apart, and a patch of ten slices can be halved once, not
four times. The rule follows Isensee et al., "nnU-Net", Nature Methods 2021.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Sequence
from typing import NamedTuple

HALVINGS = 4
ISOTROPIC = "isotropic"
THICK = 2  # times the finest spacing, from which an axis is neither convolved nor halved
FEWEST = 4  # voxels that halving leaves to an axis, unless others have as few


class Level(NamedTuple):
    """How one level of the encoder, and of the decoder beside it, is computed; per axis of (W, H, D)."""

    kernel: tuple[int, ...]  # 3, or 1 across slices that are thick
    stride: tuple[int, ...]  # to the level below: 2, or 1 for an axis that is not halved

    def __str__(self) -> str:
        return "".join(map(str, self.kernel)) + "/" + "".join(map(str, self.stride))


PLAIN = Level((3, 3, 3), (2, 2, 2))


def choose_levels(patch: Sequence[int], spacing: Sequence[float]) -> str:
    """Return the levels that suit a patch (W, H, D) of voxels of ``spacing`` mm, for ``parse_levels``."""
    sides, spacing, kernel, levels = list(patch), list(spacing), [1, 1, 1], []
    for _ in range(HALVINGS):
        enough = [side >= 2 * FEWEST or (side % 2 == 0 and 2 * side >= max(sides)) for side in sides]
        # An axis that cannot be halved any more holds back no other.
        finest = min((length for length, many in zip(spacing, enough, strict=True) if many), default=max(spacing))
        near = [length < THICK * finest for length in spacing]
        kernel = [3 if close else before for close, before in zip(near, kernel, strict=True)]
        stride = [1 + (close and many) for close, many in zip(near, enough, strict=True)]
        levels.append(Level(tuple(kernel), tuple(stride)))
        sides = [side / factor for side, factor in zip(sides, stride, strict=True)]
        spacing = [length * factor for length, factor in zip(spacing, stride, strict=True)]
    return format_levels(levels)


def format_levels(levels: Sequence[Level]) -> str:
    """Return the text for ``parse_levels``."""
    return ISOTROPIC if all(level == PLAIN for level in levels) else " ".join(map(str, levels))


def parse_levels(text: str) -> tuple[Level, ...]:
    """Return the four levels above the bottom of a network; raises ValueError if ``text`` describes none.

    Args:
        text: ``isotropic``, or kernel and stride per axis of every level, such as '331/221 333/222 333/221 333/221'.
    """
    if text == ISOTROPIC:
        return (PLAIN,) * HALVINGS
    level = "([13]{3})/([12]{3})"
    found = re.fullmatch(" ".join([level] * HALVINGS), text)
    if found is None:
        raise ValueError(f"{text!r} is neither {ISOTROPIC} nor kernel/stride of {HALVINGS} levels, such as '331/221'")
    digits = [tuple(map(int, group)) for group in found.groups()]
    return tuple(Level(*pair) for pair in zip(digits[::2], digits[1::2], strict=True))


def activations(text: str) -> float:
    """Return how many values a network with these levels holds per voxel of a patch, 1 for the isotropic network."""

    def values(levels: Sequence[Level]) -> float:
        shares = itertools.accumulate((math.prod(level.stride) for level in levels), operator.truediv, initial=1.0)
        return sum(share * 2**depth for depth, share in enumerate(shares))

    return values(parse_levels(text)) / values(parse_levels(ISOTROPIC))


def divisors(text: str) -> tuple[int, int, int]:
    """Return by what each axis of a patch must be divisible, for a network with the levels that ``text`` describes."""
    strides = [level.stride for level in parse_levels(text)]
    w, h, d = (2 ** sum(stride[axis] == 2 for stride in strides) for axis in range(3))
    return w, h, d
