"""A made-up dataset so small that the real commands finish in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from semisam_o1.data.dataset.volumes import Geometry, Volume, write_volume

LISTS = {"train": 6, "val": 1, "test": 2}
SETTINGS = {
    "num_classes": "3",
    "patch_size": "32 16 16",
    "max_iterations": "4",
    "num_rounds": "1",
    "val_interval": "2",
    "save_interval": "3",
    "log_images": "2",
    "knn_k": "2",
    "uncertainty_quantile": "0.7",
    "device": "cpu",
}


def write_cohort(root: Path) -> Path:
    """Write nine non-cubic scans with two bright boxes each: class 1 beside class 2."""
    for split, count in LISTS.items():
        names = [f"{split}{i}" for i in range(count)]
        (root).mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        for i, name in enumerate(names):
            generator = np.random.default_rng([i, len(split)])
            shape = (26 + i, 20, 17)
            label = np.zeros(shape, np.uint8)
            x, y, z = generator.integers(4, 7, 3)
            label[x : x + 9, y : y + 10, z : z + 8] = 1
            label[x + 9 : x + 16, y : y + 10, z : z + 8] = 2
            image = label + 0.3 * generator.standard_normal(shape).astype(np.float32)
            geometry = Geometry((1.0, 1.5, 2.0), (5.0, -3.0, 7.0), known=True)
            write_volume(root / "data" / f"{name}.h5", Volume(name, image, label, geometry))
    return root


def train_flags(root: Path, exp: Path, **changes: object) -> list[str]:
    """Return the command line of a short training run without the checkpoint."""
    settings = {
        "root_path": root, "exp": exp, "backbone": "mt", "propagation": "atlas", "features": "builtin",
        "registration": "off",
    }  # fmt: skip
    settings |= SETTINGS | changes
    return [part for key, value in settings.items() for part in (f"--{key}", *str(value).split())]
