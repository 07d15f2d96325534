"""A whole short run of one round, end to end: checks, reading, training with validations, labels, test.

    python benchmarks/bench_round.py
    python benchmarks/bench_round.py --device cuda --side 128 --iterations 300 --val_interval 100

The plain way makes a loader every iteration, trains in float32, predicts window by window and tests with medpy. It
starts from the labels of round 0, which the package's time includes. Made-up scans; each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import h5py
import numpy as np
import torch
from medpy.metric import binary

import plain
import scans
import timing
from semisam_o1.commands.testing import TestConfig, test
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.run import train
from semisam_o1.runs.records import load_labels

SPLITS = {"train": 4, "val": 2, "test": 2}


def here(root: Path, options: Namespace) -> float:
    """Train one round with the package and test it, with all that its commands do; return the seconds."""
    half = options.side // 2
    shared = {"root_path": root, "exp": str(root / "run"), "patch_size": (options.side,) * 3, "device": options.device}
    config = TrainConfig(
        **shared, backbone=options.method, propagation="atlas", features="builtin", registration=False, num_rounds=1,
        max_iterations=options.iterations, val_interval=options.val_interval, val_stride=half, log_images=0,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        train(config)
        test(TestConfig(**shared, stride_xy=half, stride_z=half))
        return time.perf_counter() - started


def straightforward(root: Path, options: Namespace) -> float:
    """Do the same the plain way, from the labels of round 0 that the package made; return the seconds."""
    patch, half = (options.side,) * 3, options.side // 2
    names = {split: [f"{split}{i}" for i in range(count)] for split, count in SPLITS.items()}
    labels = root / "round0"
    labels.mkdir()
    for name, label in load_labels(_labels(root, 0), names["train"]).items():
        with h5py.File(root / "data" / f"{name}.h5") as source, h5py.File(labels / f"{name}.h5", "w") as copy:
            copy.create_dataset("image", data=source["image"][()], compression="gzip")
            copy.create_dataset("label", data=label, compression="gzip")
    started = time.perf_counter()
    patches = plain.Patches([labels / f"{name}.h5" for name in names["train"]], patch)
    step = plain.Step(options.method, 2, options.device, options.iterations)
    random = np.random.default_rng(1)
    for t in range(options.iterations):
        items = [0, int(random.integers(1, len(names["train"])))]
        for image, label in torch.utils.data.DataLoader(patches, batch_size=2, sampler=items, num_workers=2):
            step(image.to(options.device), label.to(options.device), t)
        if (t + 1) % options.val_interval == 0:
            for name in names["val"]:
                probabilities, truth = predicted(step, root / "data" / f"{name}.h5", patch, half)
                binary.dc(probabilities.argmax(0), truth)
    for name in names["train"][1:]:
        probabilities = predicted(step, root / "data" / f"{name}.h5", patch, half)[0]
        (-(probabilities * np.log(probabilities + 1e-12)).sum(0)).mean()
    for name in names["test"]:
        probabilities, truth = predicted(step, root / "data" / f"{name}.h5", patch, half)
        prediction = probabilities.argmax(0)
        for metric in (binary.dc, binary.jc, binary.hd95, binary.asd) if prediction.any() else ():
            metric(prediction, truth)
    return time.perf_counter() - started


def predicted(step: plain.Step, path: Path, patch: tuple[int, int, int], stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the class probabilities (2, W, H, D) and the true label of a volume."""
    with h5py.File(path) as file:
        image, label = torch.from_numpy(file["image"][()]), file["label"][()]
    step.student.eval()
    probabilities = plain.predict(step.student, image, patch, stride, 2)
    step.student.train()
    return probabilities, label


def _labels(root: Path, round_: int) -> Path:
    return next(root.glob(f"run_*/*/pseudo_labels/round{round_}.h5"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="mt", choices=("mt", "uamt", "dan"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--side", type=int, default=64, help="voxels a side of a patch")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--val_interval", type=int, default=10)
    options = parser.parse_args()
    print(timing.machine())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        scans.write_cohort(root, SPLITS, scans.SHAPE if options.device == "cuda" else (96, 96, 80))
        ours = timing.in_process(here, root, options)
        by_hand = timing.in_process(straightforward, root, options)
    timing.say(
        f"a round of {options.iterations} iterations of {options.method}, {options.side}³, with "
        f"{options.iterations // options.val_interval} validations, labels and test", by_hand, ours,
    )  # fmt: skip


if __name__ == "__main__":
    main()
