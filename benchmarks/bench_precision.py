"""Dice on the demo's test scans after training in bf16 and in float32, with several seeds.

    python benchmarks/bench_precision.py FOLDER

Two rounds as in the demo; about half an hour on two cores. Runs that FOLDER holds already are not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import code_path  # noqa: F401
import timing
from semisam_o1.commands.testing import TestConfig, test
from semisam_o1.demo.run import train_config, write_data
from semisam_o1.pipeline.run import train


def dice(folder: Path, seed: int, precision: str, iterations: int) -> float:
    """Train and test once, or read what an earlier call measured."""
    kept = folder / f"{precision}_{seed}_{iterations}.json"
    if not kept.is_file():
        exp = str(folder / f"{precision}_{seed}")
        started = time.monotonic()
        train(train_config(folder / "data", exp, iterations, precision=precision, seed=seed, overwrite=True))
        summary = test(TestConfig(root_path=folder / "data", exp=exp, precision=precision))
        found = {"dice": summary["overall"]["dice"]["mean"], "seconds": time.monotonic() - started}
        kept.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))["dice"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, default=320, help="per round")
    arguments = parser.parse_args()
    print(timing.machine())
    folder = arguments.folder.resolve()
    write_data(folder / "data", seed=21, overwrite=False)
    rows = {
        precision: [dice(folder, seed, precision, arguments.iterations) for seed in arguments.seeds]
        for precision in ("bf16", "fp32")
    }
    print("precision   mean    range             by seed")
    for precision, scores in rows.items():
        by_seed = " ".join(f"{score:.4f}" for score in scores)
        print(f"{precision:9}   {statistics.mean(scores):.4f}  {min(scores):.4f} to {max(scores):.4f}  {by_seed}")


if __name__ == "__main__":
    main()
