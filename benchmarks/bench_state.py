"""What saving the state costs at the default interval: its share of the time of a real training loop.

    python benchmarks/bench_state.py --minutes 3

The network is full-sized with all that UA-MT keeps (teacher, momentum, best weights); the patch is small, so that the
loop does not depend on the machine's speed. The share is that of seconds, whatever an iteration takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch

import code_path  # noqa: F401
from semisam_o1.core.errors import Interrupted
from semisam_o1.data.sampling.batches import BatchSettings, BatchStream
from semisam_o1.methods import METHODS
from semisam_o1.networks import build_network
from semisam_o1.runs.layout import RunFolder
from semisam_o1.training.stopping import StopRequest
from semisam_o1.training.tracking import Tracker
from semisam_o1.training.trainer import RoundContext, RoundTrainer, TrainingOptions

ITERATIONS = 1_000_000  # more than there is time for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be measured (default: temporary)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(RunFolder(Path(folder), "unet_3D"), arguments.minutes)


def measure(folder: RunFolder, minutes: float) -> None:
    student = build_network("unet_3D", 2, generator=torch.Generator().manual_seed(1))
    image = torch.randn(40, 40, 40, generator=torch.Generator().manual_seed(2))
    label = (image > 0.5).to(torch.uint8)
    source = SimpleNamespace(image=lambda _: image, label=lambda _: label, weight=lambda _: None)
    batches = BatchStream(["a"], ["b"], source, BatchSettings((32, 16, 16), 1, 2, ITERATIONS, seed=(3,)))
    options = TrainingOptions(num_rounds=1, max_iterations=ITERATIONS, val_interval=2, log_images=0)
    method = METHODS["uamt"](student, options)
    spent: list[float] = []
    with StopRequest(minutes / 60) as stop, Tracker(folder) as tracker:
        context = RoundContext(1, 3, "fp32", 0, folder, tracker, stop)
        trainer = RoundTrainer(student, method, batches, lambda _: [0.5], options, context)
        save = trainer.save_state

        def timed() -> None:
            started = time.monotonic()
            save()
            spent.append(time.monotonic() - started)

        trainer.save_state = timed
        started = time.monotonic()
        try:
            trainer.run()
        except Interrupted:
            spent.pop()  # the one that the end asked for
        seconds = time.monotonic() - started
    size = folder.state.stat().st_size / 2**20
    each = " ".join(f"{s:.2f}" for s in spent)
    print(f"{len(spent)} states of {size:.0f} MiB in {seconds:.0f} s, {trainer.iteration} iterations: {each} s each")
    print(f"share of the run: {100 * sum(spent) / seconds:.2f} %")


if __name__ == "__main__":
    main()
