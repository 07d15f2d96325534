"""A batch of patches of left-atrium size: from volumes held in memory, against opening a file for every patch.

    python benchmarks/bench_loading.py

The plain way decompresses, turns, pads and crops whole scans; once in this process, once as the workers of a loader
that is made anew every iteration, which is what an epoch of one labeled scan amounts to.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import torch

import plain
import scans
import timing
from semisam_o1.core.memory import configure_allocator
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.sampling.augmentation import Augmentation
from semisam_o1.data.sampling.batches import Batch, BatchSettings, BatchStream
from semisam_o1.data.sampling.store import VolumeStore

TARGET = 0.005  # seconds a patch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--patch_size", type=int, nargs=3, default=(128, 128, 128))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    configure_allocator(arguments.device)
    print(timing.machine())
    patch, device = tuple(arguments.patch_size), torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        files = scans.write_cohort(Path(folder), {"train": 4})
        patches = plain.Patches(scans.gzip_copies(files, Path(folder) / "public"), patch)

        def open_files() -> list:
            return [patches[0], patches[1]]

        def loader_anew() -> list:
            loader = torch.utils.data.DataLoader(patches, batch_size=2, sampler=[0, 1], num_workers=2)
            return [(image.to(device), label.to(device)) for image, label in loader]

        store = VolumeStore(Dataset(Path(folder)), [file.stem for file in files], _place(device), device)
        held = take(store, patch, Augmentation(), device)
        augmented = take(store, patch, Augmentation(spatial=True, intensity=True), device)
        times = timing.medians(open_files, loader_anew, held, augmented, repeats=arguments.repeats)
    by_file, by_loader, ours, with_augmentation = times
    timing.say(f"a patch {patch} of {scans.SHAPE}, opened in this process", by_file / 2, ours / 2)
    timing.say("a batch of 2, by a loader with 2 workers made for it", by_loader, ours)
    print(
        f"one patch: {1000 * ours / 2:.2f} ms ({'below' if ours / 2 < TARGET else 'ABOVE'} {1000 * TARGET:.0f} ms), "
        f"with --augmentation spatial intensity {500 * with_augmentation:.1f} ms"
    )


def _place(device: torch.device) -> str:
    return "gpu" if device.type == "cuda" else "ram"


def take(
    store: VolumeStore, patch: tuple[int, int, int], augmentation: Augmentation, device: torch.device
) -> Callable[[], Batch]:
    """Return a function that makes the next batch and has it on the device, as training does."""
    settings = BatchSettings(patch, 1, 2, length=10**6, seed=(1,), augmentation=augmentation)
    source = SimpleNamespace(image=store.image, label=store.label, weight=lambda name: None)
    stream = BatchStream(["train0"], ["train1", "train2", "train3"], source, settings)
    iterations = count()
    return lambda: stream[next(iterations)].to(device)


if __name__ == "__main__":
    main()
