"""Kill the training command with SIGKILL again and again, and compare what it ends with to an unbroken run.

    python tests/faults/kill_runs.py FOLDER --kills 100

FOLDER keeps what was done, so that the same command goes on after a stop. The table at the end goes to the console.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch

CODE = Path(__file__).resolve().parents[2] / "code"
sys.path[:0] = [str(CODE), str(CODE.parent / "tests" / "helpers")]

from tiny_cohort import train_flags, write_cohort  # noqa: E402

BACKBONES = ("mt", "uamt", "dan", "dtc")
SETTINGS = {"num_rounds": 2, "state_interval": 0, "save_interval": 2}


class Stage(NamedTuple):
    """Where a run can be cut on purpose.

    Attributes:
        target: what is replaced.
        call: at which the process dies.
        when: 'before' or 'after' that call, or 'half': with half of the file written.
        argument: calls without this text in an argument do not count.
    """

    target: str
    call: int
    when: str
    argument: str = ""


STAGES = {
    "feature extraction": Stage("semisam_o1.features.builtin.BuiltinFeatures.__call__", 3, "before"),
    "propagation": Stage("semisam_o1.propagation.cohort.CohortAtlas.registered", 3, "before"),
    "half an iteration": Stage("torch.optim.SGD.step", 3, "after"),
    "a state half written": Stage("semisam_o1.training.checkpoint.write_bytes", 1, "half", "state.pth"),
    "between a state's two renames": Stage("pathlib.Path.replace", 1, "after", "state_previous.pth"),
    "validation": Stage("semisam_o1.pipeline.run.dice_per_class", 1, "before"),
    "between validation and state": Stage("semisam_o1.training.tracking.Tracker.say", 1, "after", "validation Dice"),
    "relabeling": Stage("semisam_o1.data.dataset.prediction.Prediction.from_probabilities", 3, "before"),
    "refinement": Stage("semisam_o1.pipeline.pseudo_labeling.refine", 1, "before"),
    "between the weights and the labels of a round": Stage("semisam_o1.pipeline.run.Run.finish_round", 1, "before"),
    "labels half written": Stage("semisam_o1.data.dataset.hdf5.write_bytes", 1, "half", "round1.h5"),
    "between the labels and the tables of a round": Stage("semisam_o1.runs.records.write_json", 1, "before"),
    "figures": Stage("semisam_o1.drawing.figures.draw_labels", 1, "before"),
}


class Trial:
    """One run in a folder of its own, on its own copy of the scans."""

    def __init__(self, folder: Path, scans: Path, backbone: str):
        self.data, self.exp, self.backbone = folder / "data", folder / "run", backbone
        if not self.data.exists():
            shutil.copytree(scans, self.data)

    @property
    def folder(self) -> Path:
        return next(self.exp.parent.glob("run_*_1label_1/*"), self.exp)

    def start(self, stage: str | None = None) -> subprocess.Popen[bytes]:
        """Start the command, or go on; with ``stage`` it kills itself there."""
        program = [str(CODE / "train_SemiSAM_O1.py")] if stage is None else [__file__, "--die", stage]
        flags = [*train_flags(self.data, self.exp, backbone=self.backbone, **SETTINGS), "--resume"]
        with (self.data.parent / "console.txt").open("ab") as console:
            return subprocess.Popen(
                [sys.executable, *program, *flags], stdout=console, stderr=console,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def finish(self) -> float:
        """Let the run end by itself and return its seconds from when it took its folder.

        Raises:
            RuntimeError: if it does not end with 0.
        """
        process = self.start()
        self.wait_for_work(process)
        started = time.monotonic()
        if process.wait(timeout=600) != 0:
            raise RuntimeError(f"exit code {process.returncode}, see {self.data.parent / 'console.txt'}")
        return time.monotonic() - started

    def wait_for_work(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the process has taken the run folder."""
        while process.poll() is None:
            try:
                holder = json.loads((self.folder / ".lock.json").read_text())
            except (OSError, ValueError):
                holder = {}
            if holder.get("pid") == process.pid:
                return
            time.sleep(0.01)

    def kill_after(self, seconds: float) -> str | None:
        """Start or go on, kill some time after the folder was taken; return the stage, None if it ended before."""
        process = self.start()
        self.wait_for_work(process)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return self.stage()
        if code != 0:
            raise RuntimeError(f"exit code {code}, see {self.data.parent / 'console.txt'}")
        return None

    def kill_at(self, stage: str) -> bool:
        """Start or go on, and die at a named stage; return whether the process got there."""
        code = self.start(stage).wait(timeout=600)
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"exit code {code}, see {self.data.parent / 'console.txt'}")
        return code != 0

    def stage(self) -> str:
        """Return how far the run has come, from the files it left."""
        labels = {path.stem for path in self.folder.glob("pseudo_labels/round*.h5")}
        if "round0" not in labels:
            extracted = len(list((self.data / "features").rglob("*.npz")))
            return "round 0: propagation" if extracted >= 6 else "features"
        round_ = len(labels)
        if round_ > SETTINGS["num_rounds"]:
            return "summary and figures"
        rows = map(json.loads, filter(whole, (self.folder / "metrics.jsonl").read_text().splitlines()))
        done = max((row["iteration"] for row in rows if row["round"] == round_ and "iteration" in row), default=0)
        return f"round {round_}: " + ("training" if done < 4 else "validation, relabeling, refinement")


def whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def outcome(folder: Path) -> dict[str, Any]:
    """Return everything that a run's seed decides: weights, labels, figures; no times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.pth")):
        if not path.name.startswith("state"):
            for key, value in torch.load(path, weights_only=True).items():
                found[f"{path.name}: {key}"] = value.numpy()
    for path in sorted(folder.glob("pseudo_labels/*.h5")):
        with h5py.File(path) as file:
            for name, dataset in file.items():
                found[f"{path.name}: {name}"] = dataset[()]
                figures = {key: np.asarray(value).tolist() for key, value in dataset.attrs.items()}
                found[f"{path.name}: {name} figures"] = json.dumps(figures, sort_keys=True)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("train/iterations_per_second", "train/learning_rate", "weight/")
    found["metrics"] = [{key: v for key, v in row.items() if not key.startswith(timed)} for row in rows]
    records = json.loads((folder / "round_tracking.json").read_text())
    found["rounds"] = [{key: v for key, v in record.items() if key != "seconds"} for record in records]
    return found


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Return the names of what is not the same in two outcomes, bit for bit."""
    return sorted(
        name for name in first.keys() | second.keys()
        if name not in first or name not in second or not np.array_equal(first[name], second[name])
    )  # fmt: skip


def die(stage: str, argv: Sequence[str]) -> int:
    """Run the command in this process, which kills itself at a stage."""
    import importlib

    import train_SemiSAM_O1
    from semisam_o1.core.errors import run_command
    from semisam_o1.pipeline import run as pipeline  # noqa: F401

    cut = STAGES[stage]
    owner_name, name = cut.target.rsplit(".", 1)
    try:
        owner: Any = importlib.import_module(owner_name)
    except ModuleNotFoundError:
        module, cls = owner_name.rsplit(".", 1)
        owner = getattr(importlib.import_module(module), cls)
    original: Callable = getattr(owner, name)
    left = cut.call

    def fatal(*arguments: Any, **keywords: Any) -> Any:
        nonlocal left
        left -= not cut.argument or any(cut.argument in str(argument) for argument in arguments)
        if left == 0 and cut.when == "half":
            path, content = arguments[:2]
            path.with_name(path.name + ".partial").write_bytes(bytes(content)[: len(content) // 2])
        if left == 0 and cut.when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **keywords)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, fatal)
    return run_command(train_SemiSAM_O1.main, argv)


class Campaign:
    """Kills spread over backbones, kept in a folder so that it can go on."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        self.scans = folder / "scans"
        self.results = folder / "results.jsonl"
        if not self.scans.exists():
            write_cohort(self.scans)

    def reference(self, backbone: str) -> tuple[dict[str, Any], float]:
        """Return the outcome of an unbroken run, and how long it worked."""
        folder = self.folder / f"unbroken_{backbone}"
        seconds = folder / "seconds.txt"
        if not seconds.exists():
            shutil.rmtree(folder, ignore_errors=True)
            seconds.write_text(str(Trial(folder, self.scans, backbone).finish()))
        return outcome(Trial(folder, self.scans, backbone).folder), float(seconds.read_text())

    def run(
        self, number: int, backbone: str, stages: Sequence[str], random_kills: int, share: float = 1.0
    ) -> dict[str, Any]:
        """Kill one run at named stages and at random moments, let it end and compare.

        Args:
            share: of an unbroken run's time, that the random moments are spread over.
        """
        expected, seconds = self.reference(backbone)
        folder = self.folder / f"run{number}_{backbone}"
        shutil.rmtree(folder, ignore_errors=True)
        trial = Trial(folder, self.scans, backbone)
        generator = np.random.default_rng([self.seed, number])
        kills = [stage for stage in stages if trial.kill_at(stage)]
        for left in range(random_kills, 0, -1):
            stage = trial.kill_after(generator.uniform(0, share * 2 * seconds / (left + 1)))
            if stage is None:  # it was faster than the dice
                break
            kills.append(stage)
        trial.finish()
        different = differences(expected, outcome(trial.folder))
        result = {"number": number, "backbone": backbone, "kills": kills, "different": different}
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        if not different:
            shutil.rmtree(folder)
        return result

    def done(self) -> list[dict[str, Any]]:
        if not self.results.exists():
            return []
        return [json.loads(line) for line in self.results.read_text().splitlines()]


def random_kills(results: Sequence[dict[str, Any]]) -> int:
    return sum(stage not in STAGES for r in results for stage in r["kills"])


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return kills and survivals by stage and backbone."""
    kills = Counter((stage, r["backbone"]) for r in results for stage in r["kills"])
    stages = sorted({stage for stage, _ in kills})
    rows = ["| killed in | " + " | ".join(BACKBONES) + " |", "| --- |" + " --- |" * len(BACKBONES)]
    rows += [f"| {stage} | " + " | ".join(str(kills[stage, b]) for b in BACKBONES) + " |" for stage in stages]
    totals = [sum(n for (_, b), n in kills.items() if b == backbone) for backbone in BACKBONES]
    rows.append("| all | " + " | ".join(map(str, totals)) + " |")
    good = sum(len(r["kills"]) for r in results if not r["different"])
    rows.append(
        f"\n{good} of {sum(totals)} kills survived, in {len(results)} runs that ended bit for bit as unbroken ones"
    )
    rows += [f"run {r['number']} ({r['backbone']}) differs in {r['different'][:5]}" for r in results if r["different"]]
    return "\n".join(rows)


def main() -> int:
    if sys.argv[1:2] == ["--die"]:
        return die(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where runs and results are kept")
    parser.add_argument("--kills", type=int, default=100, help="at random moments (default: %(default)s)")
    parser.add_argument("--per_run", type=int, default=4, help="random kills of one run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: %(default)s)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(arguments.folder, arguments.seed)
    number = 0
    while number < len(BACKBONES) or random_kills(campaign.done()) < arguments.kills:
        if not any(r["number"] == number for r in campaign.done()):
            # The first run of each backbone dies at every named stage, the others where the dice say.
            named = list(STAGES) if number < len(BACKBONES) else []
            result = campaign.run(number, BACKBONES[number % 4], named, 0 if named else arguments.per_run)
            print(json.dumps(result), flush=True)
        number += 1
    print(table(campaign.done()))
    return int(any(r["different"] for r in campaign.done()))


if __name__ == "__main__":
    sys.exit(main())
