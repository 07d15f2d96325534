"""The grid that a network works on: spacing, patch, and the stride of its windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from semisam_o1.plan.facts import Machine, Scans

DIVISOR = 16  # of a patch, from four levels that halve
CPU_PATCHES, GPU_PATCHES = 1.3, 4.0  # patches that a scan may be as large as
FACTOR_STEP = 0.25  # between the spacings that are tried, times the finest
MIN_EXTENT = 24  # voxels that the template's foreground keeps along an axis that gets coarser
MIN_CLASS = 64  # voxels that its smallest class keeps

Spacing = tuple[float, float, float]
Sides = tuple[int, int, int]


def working_spacing(scans: Scans, machine: Machine) -> tuple[Spacing, str]:
    """Return the spacing (mm) to work at and the reason, half a line.

    The finest axes are coarsened together until a typical scan is about as large as the patches that the machine can
    train on, as long as the template stays visible. An axis with thicker slices keeps them, and none gets finer.
    """
    patches = GPU_PATCHES if machine.on_gpu else CPU_PATCHES
    limit, finest, factor = patches * machine.patch_voxels(), min(scans.spacing), 1.0
    while _voxels(scans, finest * factor) > limit and _visible(scans, finest * (factor + FACTOR_STEP)):
        factor += FACTOR_STEP
    if factor == 1:
        few = _voxels(scans, finest) <= limit
        return scans.spacing, f"as it is: {'a scan is small enough' if few else 'coarser, the template would be lost'}"
    spacing = tuple(round(max(own, finest * factor), 4) for own in scans.spacing)
    reason = f"a scan becomes {_by(sides_at(scans, finest * factor))} voxels, which a {machine.name} can train on"
    if scans.template is not None:
        reason += f"; the template's foreground {_by(_scaled(scans.template.extent, scans.spacing, spacing))}"
    return spacing, reason


def sides_at(scans: Scans, finest: float) -> Sides:
    """Return the size of a typical scan with no axis finer than ``finest`` mm."""
    return _scaled(scans.size, scans.spacing, [max(own, finest) for own in scans.spacing])


def _scaled(sides: Sequence[int], before: Sequence[float], after: Sequence[float]) -> Sides:
    return tuple(max(1, round(n * old / new)) for n, old, new in zip(sides, before, after, strict=True))


def _voxels(scans: Scans, finest: float) -> int:
    return math.prod(max(side, DIVISOR) for side in sides_at(scans, finest))


def _visible(scans: Scans, finest: float) -> bool:
    """Return whether the template keeps enough voxels at a spacing."""
    if scans.template is None:
        return True
    coarser = [max(1.0, finest / own) for own in scans.spacing]
    extents = zip(scans.template.extent, coarser, strict=True)
    wide = all(extent / factor >= MIN_EXTENT for extent, factor in extents if factor > 1)
    smallest = min(voxels for voxels in scans.template.class_voxels if voxels)
    return wide and smallest / math.prod(coarser) >= MIN_CLASS


def fitting_patch(size: Sequence[int], voxels: int, divisors: Sequence[int] = (DIVISOR,) * 3) -> Sides:
    """Return the patch nearest to the size of a typical scan with at most so many voxels.

    Its sides are divisible by ``divisors``; at least one is longer than its divisor. The longest sides are cut first.
    """
    sides = [max(1, round(side / divisor)) * divisor for side, divisor in zip(size, divisors, strict=True)]
    axes = range(3)
    while math.prod(sides) > voxels:
        axis = max(axes, key=lambda i: (sides[i] > divisors[i], sides[i], sides[i] / size[i]))
        if sides[axis] == divisors[axis]:
            break
        sides[axis] -= divisors[axis]
    if all(side == divisor for side, divisor in zip(sides, divisors, strict=True)):
        longest = max(axes, key=lambda i: size[i] / divisors[i])
        sides[longest] *= 2
    return tuple(sides)


def window_stride(size: Sequence[int], patch: Sequence[int]) -> int:
    """Return the stride of sliding windows: half of the shortest side along which a typical scan needs several."""
    several = [side for side, length in zip(patch, size, strict=True) if length > side]
    return max(min(several) // 2, 1) if several else max(patch)


def window_voxels(size: Sequence[int], patch: Sequence[int], stride: int) -> int:
    """Return the voxels of all windows over a scan."""
    steps = [min(stride, side) for side in patch]
    excess = (max(length - side, 0) for length, side in zip(size, patch, strict=True))
    return math.prod((1 + -(-n // step)) * side for n, step, side in zip(excess, steps, patch, strict=True))


def _by(sides: Sequence[int]) -> str:
    return " × ".join(map(str, sides))
