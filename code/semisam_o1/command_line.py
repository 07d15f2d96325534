"""The commands: what each parses, what it calls, and its advice after a failure.

``semisam-o1 train`` and ``python code/train_SemiSAM_O1.py`` are the same command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from semisam_o1.core.errors import Hints, run_command
from semisam_o1.core.flags import parse

# Every command imports what it needs when it is called: --help of one does not load the others.


def _train(argv: Sequence[str] | None, description: str) -> None:
    from semisam_o1.core import distributed
    from semisam_o1.pipeline.config import TrainConfig
    from semisam_o1.pipeline.run import train

    train(parse(TrainConfig, argv, description))
    distributed.stop()  # not after an error: it would wait for a process that has died


def _test(argv: Sequence[str] | None, description: str) -> None:
    from semisam_o1.commands.testing import TestConfig, test
    from semisam_o1.core import distributed

    test(parse(TestConfig, argv, description))
    distributed.stop()


def _prepare(argv: Sequence[str] | None, description: str) -> None:
    from semisam_o1.commands.preparation import parse_arguments, prepare

    print(prepare(parse_arguments(argv, description)))


def _predict(argv: Sequence[str] | None, description: str) -> None:
    from semisam_o1.commands.prediction import PredictConfig, predict

    predict(parse(PredictConfig, argv, description))


def _suggest(argv: Sequence[str] | None, description: str) -> None:
    from semisam_o1.commands.suggestion import SuggestConfig, suggest

    suggest(parse(SuggestConfig, argv, description))


def _label(argv: Sequence[str] | None, description: str) -> None:
    from semisam_o1.commands.labeling import LabelConfig, add_label

    add_label(parse(LabelConfig, argv, description))


def _report(argv: Sequence[str] | None, description: str) -> None:
    from semisam_o1.report.page import ReportConfig, report

    report(parse(ReportConfig, argv, description))


def _export(argv: Sequence[str] | None, description: str) -> None:
    from semisam_o1.commands.packing import ExportConfig, export

    export(parse(ExportConfig, argv, description))


def _demo(argv: Sequence[str] | None, description: str) -> None:
    from semisam_o1.demo.run import DemoConfig, run_demo

    run_demo(parse(DemoConfig, argv, description))


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        description: one sentence, for its help.
        call: (command line, description) → parses the one and does the work.
        hints: advice that names the command's flags.
        distributed: whether several processes may run it together.
    """

    description: str
    call: Callable[[Sequence[str] | None, str], None]
    hints: Hints = field(default_factory=Hints)
    distributed: bool = False

    def main(self, argv: Sequence[str] | None = None) -> None:
        """Parse a command line (None: ``sys.argv``) and run; raises what the command raises."""
        self.call(argv, self.description)

    def run(self) -> None:
        """Run the command of ``sys.argv`` and exit with its code."""
        code = run_command(self.main, hints=self.hints)
        if self.distributed:
            from semisam_o1.core.distributed import exit_process

            exit_process(code)
        sys.exit(code)


COMMANDS = {
    "prepare": Command(
        "Turn medical images into a dataset: one HDF5 file per scan, and the lists train, val and test.",
        _prepare,
        Hints(memory="fewer --workers or a coarser --spacing need less"),
    ),
    "suggest": Command(
        "Suggest a scan to label: the most representative scan of a cohort or, after a run, the next one to label.",
        _suggest,
        Hints(
            memory="--features builtin or --device cpu needs less memory of the GPU",
            dataset="(ROOT, --list and --image_key say how the dataset is read)",
        ),
    ),
    "label": Command(
        "Add the mask of one more scan to a dataset, whose next training then starts from one more label.", _label
    ),
    "train": Command(
        "Segment a cohort of 3-D scans from one labeled volume.",
        _train,
        Hints(
            memory="a smaller --patch_size or --batch_size, --cache ram or none, or --precision bf16 needs less",
            resume="the same command with --resume continues",
            dataset=(
                "(--root_path, --image_key, --binary_label, --num_classes and --labeled_num say how the dataset is "
                "read)"
            ),
        ),
        distributed=True,
    ),
    "test": Command(
        "Test a trained model on the volumes of a list.",
        _test,
        Hints(
            memory="a smaller --patch_size or --precision bf16 needs less",
            dataset="(--root_path, --image_key, --binary_label and --num_classes say how the dataset is read)",
        ),
        distributed=True,
    ),
    "predict": Command(
        "Segment scans with a trained model, or export the labels of the scans it was trained on, on their own grid.",
        _predict,
        Hints(
            memory="a smaller --patch_size or --precision bf16 needs less",
            dataset="(--root_path names the dataset of --cohort, if it was moved)",
        ),
    ),
    "report": Command(
        "Write one self-contained page about a training run: curves, tables, and every case with its outlines.",
        _report,
        Hints(dataset="(--root_path names the dataset of the run, if it was moved)"),
    ),
    "export": Command("Pack a trained network into one file to hand on, and write it as ONNX beside it.", _export),
    "demo": Command(
        "The whole pipeline on synthetic scans: write a cohort, train two short rounds, test, compare with round 0.",
        _demo,
    ),
}


def main() -> None:
    """Run ``semisam-o1 COMMAND …``."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        width = max(map(len, COMMANDS))
        lines = [f"  {key:{width}}  {command.description}" for key, command in COMMANDS.items()]
        helped = name in ("-h", "--help")
        usage = "usage: semisam-o1 COMMAND …   (COMMAND --help lists its flags)"
        print("\n".join([usage, *lines]), file=sys.stdout if helped else sys.stderr)
        sys.exit(0 if helped else 2)
    sys.argv[:2] = [f"semisam-o1 {name}"]  # argparse shows it in help and messages
    COMMANDS[name].run()
