"""The run folder: the name of every file in it, and its lock: one process at a time works in it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import time
from pathlib import Path

from filelock import FileLock, Timeout

from semisam_o1 import PROJECT_ROOT
from semisam_o1.core import distributed
from semisam_o1.core.atomic_io import remove, write_json
from semisam_o1.core.errors import InputError

MODEL_ROOT = PROJECT_ROOT / "model"
LOCK, HOLDER = LOCK_FILES = (".lock", ".lock.json")


class RunFolder:
    """The files of one run, ``model/{exp}_{BACKBONE}_{L}label_1/{model}/``; ``model`` names the network."""

    def __init__(self, path: Path, model: str):
        self.path, self.model = path, model
        self.args = path / "args.json"
        self.plan = path / "plan.json"
        self.log = path / "log.txt"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "log"
        self.state = path / "state.pth"
        self.summary = path / "results_summary.txt"
        self.tracking = path / "round_tracking.json"
        self.labels = path / "pseudo_labels"
        self.figures = path / "figures"
        self.cache = path / "cache"  # of features, where the dataset folder cannot be written
        self.best_model = path / f"{model}_best_model.pth"
        self.test_metrics = path / "test_metrics.json"
        self.test_table = path / "test_metrics.csv"
        self.test_predictions = path / "test_predictions.h5"
        self.report = path / "report.html"

    @classmethod
    def of(cls, exp: str, backbone: str, labeled_num: int, model: str) -> RunFolder:
        """Return the folder of a training run; an absolute ``exp`` is a folder outside of model/."""
        return cls(MODEL_ROOT / f"{exp}_{backbone.upper()}_{labeled_num}label_1" / model, model)

    def pseudo_labels(self, round_: int) -> Path:
        return self.labels / f"round{round_}.h5"

    def confidence(self, round_: int) -> Path:
        return self.labels / f"round{round_}_confidence.h5"

    def round_best(self, round_: int) -> Path:
        return self.path / f"round{round_}_best.pth"

    def improvement(self, round_: int, iteration: int, dice: float) -> Path:
        return self.path / f"round{round_}_iter{iteration}_dice{dice:.4f}.pth"

    def periodic(self, round_: int, iteration: int) -> Path:
        return self.path / f"round{round_}_iter{iteration}.pth"

    def labeled_rounds(self) -> list[int]:
        """Return the rounds whose label files exist, in order."""
        numbers = (path.stem.removeprefix("round") for path in self.labels.glob("round*.h5"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def check(self, resume: bool, overwrite: bool) -> None:
        """Raise InputError if the folder holds a run that is neither resumed nor replaced."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; move it away or choose another --exp")
        if not (resume or overwrite) and self._entries():
            remedy = "continue it (--resume), replace it (--overwrite) or choose another --exp"
            raise InputError(f"{self.path} already holds a run; {remedy}")

    def create(self, overwrite: bool = False) -> None:
        """Make the folder, or raise InputError: empty if ``overwrite``, without what a kill left half written."""
        try:
            if overwrite:
                # What says whose run it is goes last, so that no kill leaves files of an unknown one.
                for path in sorted(self._entries(), key=lambda path: path == self.args):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            for folder in (self.path, self.labels, self.figures):
                folder.mkdir(parents=True, exist_ok=True)
            for partial in (*self.path.rglob("*.partial"), *self.figures.glob("partial_*")):
                partial.unlink()
        except OSError as error:
            raise InputError(f"the run folder {self.path} cannot be made ({error}); choose another --exp") from None

    def _entries(self) -> list[Path]:
        """Return what lies in the folder, its lock aside."""
        return [path for path in self.path.glob("*") if path.name not in LOCK_FILES]


class RunLock:
    """Held for the length of a run, by rank 0 for all ranks.

    The operating system's lock ends with the process, however that ends. A file beside it names the holder; where it
    is left over, the previous process was killed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.left_by = ""  # who a leftover file names, to follow a noun
        self._lock = FileLock(folder / LOCK, timeout=0)

    def check(self) -> None:
        """Raise InputError if another process works in the folder, naming it."""
        if (self.folder / LOCK).is_file():
            self._take()
            self._lock.release()

    def __enter__(self) -> RunLock:
        distributed.on_main(self._acquire)
        return self

    def __exit__(self, *_: object) -> None:
        if distributed.is_main():
            remove(self.folder / HOLDER)
            self._lock.release()

    def _acquire(self) -> None:
        self._take()
        self.left_by = self._holder()
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        write_json(self.folder / HOLDER, {"host": platform.node(), "pid": os.getpid(), "since": since})

    def _take(self) -> None:
        try:
            self._lock.acquire()  # makes the folder
            return
        except Timeout:
            fault = f"is in use by another run{self._holder()}; wait for it, stop it, or choose another --exp"
        except (OSError, NotImplementedError) as error:
            fault = f"cannot be made and locked ({error}); choose another --exp, an absolute one for another drive"
        raise InputError(f"{self.folder} {fault}")

    def _holder(self) -> str:
        """Return who holds the lock, to follow a noun; nothing where that is not known."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            holder = json.loads((self.folder / HOLDER).read_text(encoding="utf-8"))
            return f" (process {holder['pid']} on {holder['host']}, since {holder['since']})"
        return ""
