"""Made-up scans of the size of a left atrium scan, for benchmarks without data."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

import code_path  # noqa: F401
from semisam_o1.data.dataset.volumes import Geometry, Volume, write_volume

SHAPE = (190, 140, 88)


def atrium(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (W, H, D) float32 and a label uint8: one smooth object of a tenth of the volume or so."""
    random = np.random.default_rng(seed)
    places = np.indices(shape).reshape(3, -1).T / np.array(shape) - 0.5
    radius = np.linalg.norm(places / (0.26, 0.30, 0.30), axis=1).reshape(shape)
    bumps = gaussian_filter(random.standard_normal(shape), 12)
    label = (radius + 0.15 * bumps / bumps.std() < 1).astype(np.uint8)
    texture = gaussian_filter(random.standard_normal(shape), 1.5)
    return np.round(80 * (label + texture / texture.std())).astype(np.float32) / 80, label  # gray levels of a scanner


def good_prediction(label: np.ndarray, seed: int) -> np.ndarray:
    """Return a label whose surface lies a voxel or two beside the true one, here inside and there outside."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(label.shape), 4)
    signed = distance_transform_edt(label) - distance_transform_edt(label == 0)
    return (signed + 1.5 * noise / noise.std() > 0.5).astype(np.uint8)


def blobs(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Return a label of smooth blobs all over the volume."""
    return (gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 3) > 0).astype(np.uint8)


def gzip_copies(files: list[Path], folder: Path) -> list[Path]:
    """Copy volumes as the public copy has them, without checksums."""
    folder.mkdir()
    for path in files:
        with h5py.File(path) as source, h5py.File(folder / path.name, "w") as copy:
            for key in ("image", "label"):
                copy.create_dataset(key, data=source[key][()], compression="gzip")
    return [folder / path.name for path in files]


def write_cohort(root: Path, splits: dict[str, int], shape: tuple[int, int, int] = SHAPE) -> list[Path]:
    """Write volumes and lists as training reads them; return the files."""
    root.mkdir(parents=True, exist_ok=True)
    paths = []
    for split, count in splits.items():
        names = [f"{split}{i}" for i in range(count)]
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        for name in names:
            image, label = atrium(len(paths), shape)
            paths.append(root / "data" / f"{name}.h5")
            geometry = Geometry((0.625, 0.625, 0.625), known=True)
            write_volume(paths[-1], Volume(paths[-1].stem, image, label, geometry))
    return paths
