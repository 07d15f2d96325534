"""The run folder: the name of every file in it."""

from __future__ import annotations

import shutil
from pathlib import Path

from semisam_o1 import PROJECT_ROOT
from semisam_o1.core.errors import InputError
from semisam_o1.runs.lock import LOCK_FILES

MODEL_ROOT = PROJECT_ROOT / "model"


class RunFolder:
    """The files of one run, ``model/{exp}_{BACKBONE}_{L}label_1/{model}/``.

    Attributes:
        path: of the folder.
        model: name of the network.
        cache: where features are kept when the dataset folder cannot be written.
    """

    def __init__(self, path: Path, model: str):
        self.path, self.model = path, model
        self.args = path / "args.json"
        self.log = path / "log.txt"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "log"
        self.state = path / "state.pth"
        self.summary = path / "results_summary.txt"
        self.tracking = path / "round_tracking.json"
        self.labels = path / "pseudo_labels"
        self.figures = path / "figures"
        self.cache = path / "cache"
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
        """Refuse a folder that holds a run, unless the run is resumed or replaced.

        Raises:
            InputError: naming the folder and the flags that decide.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; move it away or choose another --exp")
        if not (resume or overwrite) and self._entries():
            raise InputError(
                f"{self.path} already holds a run; continue it (--resume), replace it (--overwrite) or choose "
                "another --exp"
            )

    def create(self, overwrite: bool = False) -> None:
        """Make the folder, empty if ``overwrite``, and clear away what a killed run left half written.

        Raises:
            InputError: if it cannot be made.
        """
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
        if not self.path.is_dir():
            return []
        return [path for path in self.path.iterdir() if path.name not in LOCK_FILES]
