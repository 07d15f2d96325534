"""Search for the template's structures in a whole volume: position, size and orientation.

The neighborhood of the template's structures is compared with every place of the volume at a coarse resolution, by
normalized cross-correlation. The most similar place and the one in the middle are registered, and the one with the
smaller mismatch is taken. Where no place is like the template, orientations that differ by a permutation and flips
of the axes are tried as well; the volume's own is kept unless another one is clearly better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np
import torch
from scipy import fft, ndimage

from semisam_o1.data.sampling.fields import sample
from semisam_o1.features.builtin import cell_means
from semisam_o1.propagation.description import describe, reduced_channels
from semisam_o1.propagation.region import Pose, Structures
from semisam_o1.propagation.registration import Channels, Step, displaced, register

CELLS_PER_RADIUS = 2.0  # the resolution of the search
WINDOW_MARGIN = 0.5  # around the structures, in mean radii
SCALES = (0.85, 1.0, 1.18)
SEARCHED = [21, 22, 23, 24, 12, 13, 16, 17]  # channels that are correlated: slopes, curvature, intensity and edges
SLOPES = 0  # the first of the slopes along the three axes among them
MIN_INSIDE = 0.6  # share of the window that lies in the volume
CENTER_WEIGHT = 0.25  # on the squared distance from the middle, relative to the volume's size
POOR = 0.75  # correlation below which other orientations are tried
MISFIT = 1.0  # mismatch above which they are; it is about 2 between unrelated places
ADVANTAGE = 0.8  # mismatch of another orientation relative to that of the volume's own, below which it is taken
THICK = 1.5  # ratio of spacings from which on axes are not exchanged
OWN = Pose((0.0, 0.0, 0.0))  # the volume's own orientation
CPU = torch.device("cpu")


@dataclass(frozen=True)
class _Coarse:
    """A volume, or a window of it, at the resolution of the search: channels (F, w, h, d) and the length of a cell."""

    channels: Channels
    lengths: np.ndarray


class Locator:
    """Finds the structures of a template in other volumes.

    Args:
        image: of the template, (W, H, D).
        spacing: of the template, mm or voxels.
        structures: extent of its structures.
    """

    def __init__(self, image: np.ndarray, spacing: Step, structures: Structures) -> None:
        self._structures, self._shape, self._spacing = structures, image.shape, spacing
        self._unit = structures.radius / CELLS_PER_RADIUS
        whole = self._coarse(image, spacing)
        margin = structures.radius * WINDOW_MARGIN
        lower = (np.array(structures.center) - structures.lower - margin) / whole.lengths
        upper = (np.array(structures.center) + structures.upper + margin) / whole.lengths
        first = np.maximum(np.floor(lower), 0).astype(int)
        last = np.minimum(np.ceil(upper) + 1, whole.channels.values.shape[1:]).astype(int)
        box = (slice(None), *map(slice, first.tolist(), last.tolist()))
        values = whole.channels.values[box].contiguous()
        self._window = _Coarse(Channels(values, whole.channels.step), whole.lengths)
        spacings = np.array(spacing)
        # From the first cell's lower border to the center of the structures.
        self._center = np.array(structures.center) + spacings / 2 - first * whole.lengths

    def find(self, image: np.ndarray, spacing: Step) -> Pose:
        """Return the pose of the structures in an image (W, H, D)."""
        best, mismatch, correlation = self._in_orientation(image, spacing, OWN)
        if correlation >= POOR or mismatch < MISFIT:
            return best
        turned = self._most_similar_orientation(self._coarse(image, spacing), spacing)
        if turned is None:
            return best
        other, other_mismatch, other_correlation = self._in_orientation(image, spacing, turned)
        better = other_correlation > correlation and other_mismatch < ADVANTAGE * mismatch
        return other if better else best

    def _most_similar_orientation(self, volume: _Coarse, spacing: Step) -> Pose | None:
        """Return the orientation in which the window is most like a place of the volume, None if it is its own."""
        values = reduced_channels(volume.channels, 2).values[SEARCHED].numpy()
        window = reduced_channels(self._window.channels, 2).values[SEARCHED].numpy()
        best, highest = None, _correlations(values, window)[0].max()
        for pose in orientations(spacing):
            turned = pose.restore(window)
            slopes = [turned[SLOPES + i] * (-1 if pose.flips[i] else 1) for i in range(3)]
            turned = turned.copy()
            for i, axis in enumerate(pose.axes):
                turned[SLOPES + axis] = slopes[i]
            correlation = _correlations(values, turned)[0].max()
            if correlation > highest:
                best, highest = pose, correlation
        return best

    def _in_orientation(self, image: np.ndarray, spacing: Step, pose: Pose) -> tuple[Pose, float, float]:
        """Return the best pose in an orientation, the mismatch of its registration and the correlation found."""
        turned = pose.reorient(image)
        lengths = tuple(spacing[axis] for axis in pose.axes)
        volume = self._coarse(turned, lengths)
        size, own = np.array(turned.shape) * lengths, np.array(self._shape) * self._spacing
        middle = (size - own) / 2 + self._structures.center
        place, scale, correlation = self._correlate(volume, middle + np.array(lengths) / 2)
        found = replace(pose, origin=tuple((place - np.array(lengths) / 2).tolist()), scale=scale)
        centered = replace(pose, origin=tuple(middle.tolist()))
        refined = [self._refined(volume, each, lengths) for each in (centered, found)]
        best, mismatch = min(refined, key=lambda item: item[1])
        return best, mismatch, correlation

    def _coarse(self, image: np.ndarray, spacing: Sequence[float]) -> _Coarse:
        grid = [-(-n // max(1, round(self._unit / length))) for n, length in zip(image.shape, spacing, strict=True)]
        lengths = np.array([n * s / g for n, s, g in zip(image.shape, spacing, grid, strict=True)])
        step = tuple((lengths / self._unit).tolist())
        return _Coarse(describe(cell_means(image, grid), step, 1, None, CPU)[1], lengths)

    def _correlate(self, volume: _Coarse, middle: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Return the most similar place of the structures' center, the size there, and the correlation.

        Args:
            middle: place near which the structures are slightly preferred, from the border of the volume.
        """
        values = volume.channels.values[SEARCHED].numpy()
        extent = volume.lengths * values.shape[1:]
        window = self._window.channels.values[SEARCHED].numpy()
        best = (middle, 1.0, -np.inf, -np.inf)
        for scale in SCALES:
            size = np.maximum(np.round(self._window.lengths * window.shape[1:] * scale / volume.lengths), 1)
            zoomed = ndimage.zoom(window, (1, *(size / window.shape[1:])), order=1, mode="nearest", grid_mode=True)
            correlation, offsets = _correlations(values, zoomed)
            stretch = size * volume.lengths / (self._window.lengths * window.shape[1:])
            shift = self._center * stretch
            places = [o * length + s for o, length, s in zip(offsets, volume.lengths, shift, strict=True)]
            distance = sum(
                np.reshape(((p - m) / e) ** 2, [-1 if i == axis else 1 for i in range(3)])
                for axis, (p, m, e) in enumerate(zip(places, middle, extent, strict=True))
            )
            preferred = correlation - CENTER_WEIGHT * distance
            index = np.unravel_index(preferred.argmax(), preferred.shape)
            if preferred[index] > best[3]:
                place = np.array([p[i] for p, i in zip(places, index, strict=True)])
                best = (place, scale, float(correlation[index]), float(preferred[index]))
        return best[:3]

    def _refined(self, volume: _Coarse, pose: Pose, spacing: Step) -> tuple[Pose, float]:
        """Register the window to the volume; return the pose moved by the mean displacement, and the mismatch.

        The mismatch is the mean squared difference after the registration.
        """
        fixed, moving = self._window.channels, volume.channels
        axes = []
        for i, cells in enumerate(fixed.values.shape[1:]):
            from_center = (np.arange(cells) + 0.5) * self._window.lengths[i] - self._center[i]
            position = pose.origin[i] + spacing[i] / 2 + from_center * pose.scale
            axes.append(position / volume.lengths[i] - 0.5)
        start = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32))
        displacement = register(fixed, moving, start)
        difference = fixed.values - sample(moving.values, displaced(start, displacement, moving.step))
        shift = displacement.mean(dim=(1, 2, 3)).tolist()
        origin = tuple(o + s * self._unit for o, s in zip(pose.origin, shift, strict=True))
        return replace(pose, origin=origin), float(difference.square().mean())


def orientations(spacing: Step) -> Iterator[Pose]:
    """Yield the orientations other than the volume's own, by axes whose spacings are similar."""
    for axes in permutations(range(3)):
        ratios = [spacing[axis] / spacing[i] for i, axis in enumerate(axes)]
        if max(ratios) >= THICK:
            continue
        for flips in product((False, True), repeat=3):
            pose = replace(OWN, axes=axes, flips=flips)
            if pose.turned:
                yield pose


def _correlations(volume: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the correlation of a window (F, a, b, c) with a volume (F, w, h, d) at every offset, and the offsets.

    Over the part of the window that lies in the volume, all channels together, each relative to its mean there; −1
    where that part is too small.
    """
    sizes = list(zip(volume.shape[1:], window.shape[1:], strict=True))
    shape = [fft.next_fast_len(n + k - 1, real=True) for n, k in sizes]

    def forward(values: np.ndarray) -> np.ndarray:
        return fft.rfftn(values, shape, axes=(-3, -2, -1))

    def backward(spectrum: np.ndarray) -> np.ndarray:
        return fft.irfftn(spectrum, shape, axes=(-3, -2, -1))

    inside, all_ = forward(np.ones(volume.shape[1:], np.float32)), forward(np.ones(window.shape[1:], np.float32)).conj()
    count = np.maximum(backward(inside * all_).round(), 1)
    spectrum, other = forward(volume), forward(window).conj()
    sums, other_sums = backward(spectrum * all_), backward(inside * other)
    product_ = backward((spectrum * other).sum(0)) - (sums * other_sums / count).sum(0)
    own = backward(forward(np.square(volume).sum(0)) * all_) - (sums**2 / count).sum(0)
    others = backward(inside * forward(np.square(window).sum(0)).conj()) - (other_sums**2 / count).sum(0)
    least = 1e-6 * max(own.max(), 1e-12) * max(others.max(), 1e-12)
    correlation = product_ / np.sqrt(np.maximum(own * others, least))
    correlation[count < MIN_INSIDE * np.prod(window.shape[1:])] = -1
    # The last elements of the transform are the negative offsets.
    index = map(np.arange, shape)
    offsets = [np.where(i < n, i, i - len(i)) for i, (n, _) in zip(index, sizes, strict=True)]
    return correlation, offsets
