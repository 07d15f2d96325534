"""The demo's scans: a made-up chest with two labeled organs and others that look like them.

Class 1 is a chamber of the heart with its appendages, class 2 the vessel that leaves it in an arch. A
second and a third chamber, veins, spine, liver and the fat under the skin are about as bright and belong to
the background.
Every subject has its own size, posture, shape, contrast, bias field and noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from semisam_o1.core.errors import InputError
from semisam_o1.core.seeding import numpy_generator
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Volume, write_volume

SHAPE = (56, 48, 40)  # voxels of the average scan; the anatomy below is drawn in these, from its center
SHAPE_RANGE = 3  # voxels by which an axis of a scan may differ; less than would make two axes equal
SPACING = (1.5, 1.5, 1.5)  # mm
SPLITS = ("train", "val", "test")
TEMPLATE_SPREAD = 0.4  # whoever labels a single scan picks a typical one

TILT = (5.0, 5.0, 9.0)  # degrees about x, y, z; this and the following are standard deviations
SHIFT = 3.0  # voxels
GROWTH, STRETCH = 0.05, 0.04  # log of the size, and of each axis by itself
WARP, WARP_LENGTH = 2.4, 5.0  # voxels, of the displacement and of its smoothness
WANDER = 1.3  # voxels by which a structure lies elsewhere than in the average subject
SWELL = 0.1  # log of a structure's radii
NOISE = (0.02, 0.035)  # of a scan, where tissue is about 0 to 1


def make_subject(
    shape: Sequence[int], generator: np.random.Generator, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one subject.

    Args:
        shape: (W, H, D); the anatomy is drawn to fit and keeps its proportions.
        generator: decides everything else.
        spread: of the anatomy around the average subject, 0 for the average itself.

    Returns:
        The image, float32 (W, H, D) of mean 0 and standard deviation 1, and the label, uint8 (W, H, D) of
        0 background, 1 chamber, 2 arch. Axes run to the left, to the back and up.
    """
    image, label = _draw_anatomy(_canonical_places(shape, generator, spread), generator, spread)
    return _scan(image, generator), label


def make_cohort(
    root: Path, *, seed: int, train: int = 29, val: int = 3, test: int = 6, shape: Sequence[int] = SHAPE
) -> None:
    """Write a dataset folder of subjects and its lists; the template is the first of train.txt.

    Args:
        root: the dataset folder; files of the same names are replaced.
        seed: 0 or more. A subject depends on it, its list and its place therein, not on how many there are.
        train, val, test: how many subjects each list names.
        shape: (W, H, D) around which the scans' shapes vary.

    Raises:
        InputError: if a list would be empty.
    """
    sizes = (train, val, test)
    if min(sizes) < 1:
        raise InputError(f"every list needs a subject or more; train, val and test are {sizes}")
    dataset = Dataset(root)
    for volume in _subjects(seed, sizes, shape):
        source = f"synthetic, seed {seed}"
        write_volume(dataset.path(volume.name), volume.image, volume.label, volume.geometry, source)
    # Last, so that a folder with lists is a whole one.
    for split, size in zip(SPLITS, sizes, strict=True):
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in _names(split, size)), encoding="utf-8")


def holds_cohort(
    root: Path, *, seed: int, train: int = 29, val: int = 3, test: int = 6, shape: Sequence[int] = SHAPE
) -> bool:
    """Return whether a folder's lists and files are what ``make_cohort`` would write there."""
    dataset, sizes = Dataset(root), (train, val, test)
    try:
        if any(dataset.names(f"{s}.txt") != _names(s, n) for s, n in zip(SPLITS, sizes, strict=True)):
            return False
        return all(_same(dataset.load(volume.name), volume) for volume in _subjects(seed, sizes, shape))
    except InputError:  # a list or file that is missing or cannot be read
        return False


def _names(split: str, size: int) -> list[str]:
    return [f"{split}_{index:02d}" for index in range(size)]


def _subjects(seed: int, sizes: Sequence[int], shape: Sequence[int]) -> Iterator[Volume]:
    for part, (split, size) in enumerate(zip(SPLITS, sizes, strict=True)):
        for index, name in enumerate(_names(split, size)):
            generator = numpy_generator(seed, part, index)
            change = generator.integers(-SHAPE_RANGE, SHAPE_RANGE, 3, endpoint=True)
            own_shape = np.maximum(np.asarray(shape) + change, 1)
            image, label = make_subject(
                own_shape.tolist(), generator, 1.0 if (part, index) != (0, 0) else TEMPLATE_SPREAD
            )
            origin = tuple((-(own_shape - 1) / 2 * SPACING).tolist())
            yield Volume(name, image, label, Geometry(SPACING, origin, known=True))


def _same(found: Volume, wanted: Volume) -> bool:
    return (
        found.label is not None
        and np.array_equal(found.image, wanted.image)
        and np.array_equal(found.label, wanted.label)
        and found.geometry == wanted.geometry
    )


# Shapes


def _canonical_places(shape: Sequence[int], generator: np.random.Generator, spread: float) -> np.ndarray:
    """Return the point of the average anatomy that each voxel shows, (3, W, H, D) float32."""
    axes = [np.arange(size, dtype=np.float32) - (size - 1) / 2 for size in shape]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    fit = min(size / average for size, average in zip(shape, SHAPE, strict=True))
    size = fit * np.exp(spread * (generator.normal(0, GROWTH) + generator.normal(0, STRETCH, 3)))
    turn = Rotation.from_euler("xyz", spread * generator.normal(0, TILT), degrees=True).as_matrix()
    shift = spread * generator.normal(0, SHIFT * fit, 3)
    places = np.tensordot(turn.T / size[:, None], places - shift.reshape(3, 1, 1, 1), axes=1)
    warp = [_smooth_noise(shape, WARP_LENGTH * fit, generator) for _ in range(3)]
    return (places + spread * WARP * np.stack(warp)).astype(np.float32)


def _smooth_noise(shape: Sequence[int], length: float, generator: np.random.Generator) -> np.ndarray:
    """Return noise (W, H, D) of standard deviation 1 that varies over ``length`` voxels."""
    noise = gaussian_filter(generator.standard_normal(shape, dtype=np.float32), length, mode="reflect")
    return noise / max(noise.std(), np.finfo(np.float32).tiny)


def _draw_anatomy(places: np.ndarray, generator: np.random.Generator, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw all structures at canonical places (3, W, H, D).

    Returns:
        The tissue's brightness, about 0 to 1, and the label, both (W, H, D).
    """

    def near(*point: float) -> np.ndarray:
        return np.array(point) + spread * generator.normal(0, WANDER, 3)

    def about(*radii: float) -> np.ndarray:
        return np.array(radii) * np.exp(spread * generator.normal(0, SWELL, len(radii)))

    def path(*points: tuple[float, float, float]) -> np.ndarray:
        return np.stack([near(*point) for point in points])

    body = _ellipsoid(places, near(0, 0, 0), about(25, 20, 70), power=2.4)
    heart, chamber = near(5, -3, -5), near(8, -1, -6)
    chamber_distance = _ellipsoid(places, chamber, about(6.5, 6.3, 7.2), power=2.4)
    for offset in ((5, -5, 4), (6, 4, -3), (-2, 5, -6)):
        appendage = _tube(places, np.stack([chamber, chamber + near(*offset)]), about(3.2)[0])
        chamber_distance = _smooth_union(chamber_distance, appendage)
    # It starts inside the chamber, so that the two always touch.
    root = chamber + np.array((-2, 0, 3))
    arch = np.vstack([root, path((1, -3, 4), (-1, -1, 9), (2, 4, 11.5), (5, 9, 6.5), (5, 10, -3))])
    arch_distance = _tube(places, arch, about(4.3)[0])
    top = arch[2:4].mean(axis=0)
    structures = [  # (signed distance in voxels, brightness) from the outside in: the later hides the earlier
        (body, 0.72),  # fat under the skin
        (body + about(2.6)[0], 0.42),  # muscle
        (_ellipsoid(places, near(-14, 1, 5), about(8.5, 12, 19)), 0.14),  # lungs
        (_ellipsoid(places, near(14, 3, 5), about(8.0, 12, 18)), 0.14),
        (_ellipsoid(places, near(0, 1, 9), about(9, 9, 14)), 0.38),  # the tissue between them
        (_ellipsoid(places, near(-9, -1, -20), about(16, 13, 8.5)), 0.66),  # liver
        (_tube(places, path((-1, 15, -30), (0, 14, 0), (0, 15, 30)), about(4.0)[0]), 0.68),  # spine
        (_ellipsoid(places, heart, about(13.5, 11, 11.5)), 0.42),  # heart muscle
        (_ellipsoid(places, near(4, 7, -12), about(7.5, 5.0, 5.0)), 0.64),  # lower chamber
        (_ellipsoid(places, near(-4, -4, -6), about(6.5, 6.5, 8.0)), 0.64),  # second chamber
        (_tube(places, path((-7, 1, -8), (-7, 0, 6), (-6, -1, 24)), about(2.7)[0]), 0.62),  # veins
        (_tube(places, path((-5, 9, -25), (-6, 10, 0), (-4, 9, 25)), about(1.8)[0]), 0.62),
        (_tube(places, np.vstack([top, top + path((-2, -1, 8), (-4, -2, 16))]), about(1.8)[0]), 0.62),
        (_tube(places, np.vstack([top, top + path((3, 1, 8), (6, 0, 16))]), about(1.6)[0]), 0.62),
        (chamber_distance - about(1.6)[0], 0.42),  # the chamber's wall, open where the vessel leaves
        (arch_distance, 0.72),
        (chamber_distance, 0.80),
    ]
    image = np.full(places.shape[1:], 0.05, np.float32)
    for distance, brightness in structures:
        share = np.clip(0.5 - distance, 0, 1)  # of the voxel that lies inside
        image += share * (brightness + generator.normal(0, 0.03) - image)
    label = np.where(chamber_distance < 0, 1, np.where(arch_distance < 0, 2, 0)).astype(np.uint8)
    return image, label


def _ellipsoid(places: np.ndarray, center: np.ndarray, radii: np.ndarray, power: float = 2.0) -> np.ndarray:
    """Return about the signed distance (W, H, D) in voxels to a superellipsoid, negative inside."""
    outward = np.abs(places - center.astype(np.float32).reshape(3, 1, 1, 1))
    scaled = (outward / radii.astype(np.float32).reshape(3, 1, 1, 1)) ** power
    level = np.maximum(scaled.sum(axis=0) ** (1 / power), 1e-3)
    # Along the ray from the center: a long shape's rim is then as thick at its waist as at its ends.
    return np.sqrt((outward**2).sum(axis=0)) * (1 - 1 / level)


def _tube(places: np.ndarray, points: np.ndarray, radius: float) -> np.ndarray:
    """Return the signed distance (W, H, D) in voxels to a round tube along a curve, negative inside.

    Args:
        places: (3, W, H, D).
        points: (n, 3), that the curve runs through.
        radius: in voxels.
    """
    curve = CubicSpline(np.arange(len(points)), points)(np.linspace(0, len(points) - 1, 8 * len(points)))
    squared = np.full(places.shape[1:], np.inf, np.float32)
    for x, y, z in curve.astype(np.float32):
        np.minimum(squared, (places[0] - x) ** 2 + (places[1] - y) ** 2 + (places[2] - z) ** 2, out=squared)
    return np.sqrt(squared) - np.float32(radius)


def _smooth_union(first: np.ndarray, second: np.ndarray, width: float = 2.0) -> np.ndarray:
    """Join two signed distances with a rounded crease of about ``width`` voxels."""
    overlap = np.maximum(width - np.abs(first - second), 0) / width
    return np.minimum(first, second) - overlap**2 * width / 4


# Imaging


def _scan(tissue: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Turn tissue brightness into what a scanner shows: blur, contrast, bias field, noise, then z-scores."""
    texture = 0.02 * _smooth_noise(tissue.shape, 1.5, generator)
    image = gaussian_filter(tissue * (1 + texture), generator.uniform(0.5, 0.8))
    image = np.clip(image, 0, None) ** generator.uniform(0.75, 1.3)
    image = image * np.exp(generator.uniform(0.05, 0.15) * _smooth_noise(tissue.shape, 14, generator))
    level = generator.uniform(*NOISE)
    real, imaginary = level * generator.standard_normal((2, *tissue.shape), dtype=np.float32)
    image = np.hypot(image + real, imaginary)  # the magnitude of a complex signal, hence Rician
    return ((image - image.mean()) / image.std()).astype(np.float32)
