"""The demo's subjects: a synthetic chest with two labeled organs and others of similar intensity.

Class 1 is a chamber of the heart with its appendages, class 2 the vessel that leaves it in an arch. A second and a
third chamber, veins, spine, liver and subcutaneous fat have similar intensities and belong to the background.
Every subject has its own size, posture, shape, contrast, bias field and noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from semisam_o1.core.atomic_io import write_json, write_text
from semisam_o1.core.errors import InputError
from semisam_o1.core.seeding import numpy_generator
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Volume, write_volume
from semisam_o1.data.preparation.settings import FILE_NAME, Classes, Preparation, read_classes

SHAPE = (56, 48, 40)  # of the average scan in voxels; the anatomy is drawn in these, relative to the center
SHAPE_RANGE = 3  # largest difference of a scan's shape per axis in voxels; too small to make two axes equal
SPACING = (1.5, 1.5, 1.5)  # mm
CLASSES = Classes(3, {1: "chamber", 2: "arch"})
TEMPLATE_SPREAD = 0.4  # the only labeled scan is a typical one

# Standard deviations between subjects.
ROTATION = (5.0, 5.0, 9.0)  # about x, y and z, in degrees
TRANSLATION = 3.0  # voxels
LOG_SIZE, LOG_AXIS = 0.05, 0.04  # of all axes together, and of each one
WARP = 2.4  # displacement in voxels
WARP_SMOOTHNESS = 5.0  # Gaussian width of the displacement field in voxels
POSITION = 1.3  # of a structure, in voxels
LOG_RADIUS = 0.1  # of a structure
NOISE = (0.02, 0.035)  # range of the noise level; tissue has intensities of about 0 to 1


@dataclass(frozen=True)
class PhantomCohort:
    """A dataset of synthetic subjects; the template is the first of train.txt.

    A subject depends on the seed, on its list and on its position in the list only.
    """

    seed: int
    train: int = 29  # subjects in the list
    val: int = 3
    test: int = 6
    shape: tuple[int, int, int] = SHAPE  # average of the scans

    @property
    def lists(self) -> dict[str, list[str]]:
        """Names of the subjects by list."""
        splits = ("train", "val", "test")
        return {split: [f"{split}_{index:02d}" for index in range(getattr(self, split))] for split in splits}

    def volumes(self) -> Iterator[Volume]:
        """Yield the scans in the order of the lists."""
        for part, names in enumerate(self.lists.values()):
            for index, name in enumerate(names):
                generator = numpy_generator(self.seed, part, index)
                change = generator.integers(-SHAPE_RANGE, SHAPE_RANGE, 3, endpoint=True)
                shape = np.maximum(np.asarray(self.shape) + change, 1)
                spread = TEMPLATE_SPREAD if (part, index) == (0, 0) else 1.0
                image, label = make_subject(shape.tolist(), generator, spread)
                origin = tuple((-(shape - 1) / 2 * SPACING).tolist())
                geometry = Geometry(SPACING, origin, known=True)
                yield Volume(name, image, label, geometry, source=f"synthetic, seed {self.seed}")

    def write(self, root: Path) -> None:
        """Write the dataset folder; files of the same names are replaced."""
        for volume in self.volumes():
            write_volume(Dataset(root).path(volume.name), volume)
        # Scans of the same subjects in other formats are prepared like these.
        write_json(root / FILE_NAME, Preparation(orientation="LPS").to_json() | CLASSES.to_json())
        for split, names in self.lists.items():  # last, so that a folder with lists has all scans
            write_text(root / f"{split}.txt", "".join(f"{name}\n" for name in names))

    def is_in(self, root: Path) -> bool:
        """Return whether the lists and files of a folder are those that ``write`` would write there."""
        dataset = Dataset(root)

        def is_there(volume: Volume) -> bool:
            found = dataset.load(volume.name)
            same_image = np.array_equal(found.image, volume.image)
            return same_image and np.array_equal(found.label, volume.label) and found.geometry == volume.geometry

        try:
            same_lists = all(dataset.names(f"{split}.txt") == names for split, names in self.lists.items())
            same_lists = same_lists and read_classes(root) == CLASSES
            return same_lists and all(map(is_there, self.volumes()))
        except InputError:  # a list or a file is missing or cannot be read
            return False


def make_subject(
    shape: Sequence[int], generator: np.random.Generator, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one subject.

    Args:
        shape: (W, H, D), to the left, to the back and up; the anatomy is scaled to fit and keeps its proportions.
        spread: factor of the differences from the average anatomy, 0 for the average itself.

    Returns:
        The image, float32 of mean 0 and standard deviation 1, and the label, uint8: 0 background, 1 chamber, 2 arch.
    """
    structures = _structures(_anatomy_coords(shape, generator, spread), generator, spread)
    tissue = np.full(shape, 0.05, np.float32)
    for distance, intensity in structures:
        inside = np.clip(0.5 - distance, 0, 1)  # fraction of the voxel
        tissue += inside * (intensity + generator.normal(0, 0.03) - tissue)
    (arch, _), (chamber, _) = structures[-2:]
    label = np.where(chamber < 0, 1, np.where(arch < 0, 2, 0)).astype(np.uint8)
    return _scan(tissue, generator), label


def _anatomy_coords(shape: Sequence[int], generator: np.random.Generator, spread: float) -> np.ndarray:
    """Return the coordinates of every voxel in the average anatomy, (3, W, H, D) float32."""
    axes = [np.arange(size, dtype=np.float32) - (size - 1) / 2 for size in shape]
    coords = np.stack(np.meshgrid(*axes, indexing="ij"))
    fit = min(size / average for size, average in zip(shape, SHAPE, strict=True))
    size = fit * np.exp(spread * (generator.normal(0, LOG_SIZE) + generator.normal(0, LOG_AXIS, 3)))
    rotation = Rotation.from_euler("xyz", spread * generator.normal(0, ROTATION), degrees=True).as_matrix()
    translation = spread * generator.normal(0, TRANSLATION * fit, 3)
    coords = np.tensordot(rotation.T / size[:, None], coords - translation.reshape(3, 1, 1, 1), axes=1)
    warp = [_smooth_noise(shape, WARP_SMOOTHNESS * fit, generator) for _ in range(3)]
    return (coords + spread * WARP * np.stack(warp)).astype(np.float32)


def _smooth_noise(shape: Sequence[int], length: float, generator: np.random.Generator) -> np.ndarray:
    """Return noise (W, H, D) of standard deviation 1, smoothed by a Gaussian of a width of ``length`` voxels."""
    noise = gaussian_filter(generator.standard_normal(shape, dtype=np.float32), length, mode="reflect")
    return noise / max(noise.std(), np.finfo(np.float32).tiny)


def _structures(coords: np.ndarray, generator: np.random.Generator, spread: float) -> list[tuple[np.ndarray, float]]:
    """Return (signed distance (W, H, D) in voxels, intensity) of every structure; the last two are arch and chamber.

    Each one differs at random from the average, whose numbers are below.
    """

    def points(*average: float | tuple[float, float, float]) -> np.ndarray:
        return np.array(average) + spread * generator.normal(0, POSITION, np.shape(average))

    def radii(average: float | tuple[float, float, float]) -> np.ndarray | float:
        return np.array(average) * np.exp(spread * generator.normal(0, LOG_RADIUS, np.shape(average)))

    body = _ellipsoid(coords, points(0, 0, 0), radii((25, 20, 70)), power=2.4)
    heart, center = points(5, -3, -5), points(8, -1, -6)
    chamber = _ellipsoid(coords, center, radii((6.5, 6.3, 7.2)), power=2.4)
    for offset in ((5, -5, 4), (6, 4, -3), (-2, 5, -6)):
        appendage = _tube(coords, np.stack([center, center + points(*offset)]), radii(3.2))
        overlap = np.maximum(2.0 - np.abs(chamber - appendage), 0) / 2.0  # joined with a rounded crease
        chamber = np.minimum(chamber, appendage) - overlap**2 * 2.0 / 4
    root = center + np.array((-2, 0, 3))  # inside the chamber, so that the two always touch
    curve = np.vstack([root, points((1, -3, 4), (-1, -1, 9), (2, 4, 11.5), (5, 9, 6.5), (5, 10, -3))])
    arch, top = _tube(coords, curve, radii(4.3)), curve[2:4].mean(axis=0)
    return [  # a later one covers those before it
        (body, 0.72),  # subcutaneous fat
        (body + radii(2.6), 0.42),  # muscle
        (_ellipsoid(coords, points(-14, 1, 5), radii((8.5, 12, 19))), 0.14),  # lungs
        (_ellipsoid(coords, points(14, 3, 5), radii((8.0, 12, 18))), 0.14),
        (_ellipsoid(coords, points(0, 1, 9), radii((9, 9, 14))), 0.38),  # mediastinum
        (_ellipsoid(coords, points(-9, -1, -20), radii((16, 13, 8.5))), 0.66),  # liver
        (_tube(coords, points((-1, 15, -30), (0, 14, 0), (0, 15, 30)), radii(4.0)), 0.68),  # spine
        (_ellipsoid(coords, heart, radii((13.5, 11, 11.5))), 0.42),  # heart muscle
        (_ellipsoid(coords, points(4, 7, -12), radii((7.5, 5.0, 5.0))), 0.64),  # lower chamber
        (_ellipsoid(coords, points(-4, -4, -6), radii((6.5, 6.5, 8.0))), 0.64),  # second chamber
        (_tube(coords, points((-7, 1, -8), (-7, 0, 6), (-6, -1, 24)), radii(2.7)), 0.62),  # veins
        (_tube(coords, points((-5, 9, -25), (-6, 10, 0), (-4, 9, 25)), radii(1.8)), 0.62),
        (_tube(coords, np.vstack([top, top + points((-2, -1, 8), (-4, -2, 16))]), radii(1.8)), 0.62),
        (_tube(coords, np.vstack([top, top + points((3, 1, 8), (6, 0, 16))]), radii(1.6)), 0.62),
        (chamber - radii(1.6), 0.42),  # the chamber's wall, open where the vessel leaves
        (arch, 0.72),
        (chamber, 0.80),
    ]


def _ellipsoid(coords: np.ndarray, center: np.ndarray, radii: np.ndarray, power: float = 2.0) -> np.ndarray:
    """Return the approximate signed distance (W, H, D) in voxels to a superellipsoid, negative inside."""
    outward = np.abs(coords - center.astype(np.float32).reshape(3, 1, 1, 1))
    scaled = (outward / radii.astype(np.float32).reshape(3, 1, 1, 1)) ** power
    level = np.maximum(scaled.sum(axis=0) ** (1 / power), 1e-3)
    # Measured along the ray from the center, so that the rim of an elongated shape has the same width everywhere.
    return np.sqrt((outward**2).sum(axis=0)) * (1 - 1 / level)


def _tube(coords: np.ndarray, points: np.ndarray, radius: float) -> np.ndarray:
    """Return the signed distance (W, H, D) in voxels to a round tube along a curve through points (n, 3)."""
    curve = CubicSpline(np.arange(len(points)), points)(np.linspace(0, len(points) - 1, 8 * len(points)))
    squared = np.full(coords.shape[1:], np.inf, np.float32)
    for x, y, z in curve.astype(np.float32):
        np.minimum(squared, (coords[0] - x) ** 2 + (coords[1] - y) ** 2 + (coords[2] - z) ** 2, out=squared)
    return np.sqrt(squared) - np.float32(radius)


def _scan(tissue: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Simulate a scan of tissue: blur, contrast, bias field and Rician noise, then z-scores."""
    texture = 0.02 * _smooth_noise(tissue.shape, 1.5, generator)
    image = gaussian_filter(tissue * (1 + texture), generator.uniform(0.5, 0.8))
    image = np.clip(image, 0, None) ** generator.uniform(0.75, 1.3)
    image = image * np.exp(generator.uniform(0.05, 0.15) * _smooth_noise(tissue.shape, 14, generator))
    level = generator.uniform(*NOISE)
    real, imaginary = level * generator.standard_normal((2, *tissue.shape), dtype=np.float32)
    image = np.hypot(image + real, imaginary)  # the magnitude of a complex signal, hence Rician
    return ((image - image.mean()) / image.std()).astype(np.float32)
