"""What a training run says at its start and end: what was chosen and why, how the rounds went, what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from semisam_o1 import PROJECT_ROOT
from semisam_o1.core.progress import duration
from semisam_o1.core.text_table import text_table
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.runs.records import RoundRecord, best_round


def opening(
    config: TrainConfig,
    cohort: Cohort,
    device: torch.device,
    precision: str,
    place: str,
    place_reason: str,
    folder: Path,
) -> str:
    """Return the lines that a run begins with; whatever was left to 'auto' comes with its reason."""
    if config.device == "auto":
        why = "auto: a CUDA device is there" if device.type == "cuda" else "auto: PyTorch finds no CUDA device"
    else:
        why = "as asked for"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    native = "is computed natively here" if precision == "bf16" else "is what this device computes best"
    precision_why = f"auto: {precision} {native}" if config.precision == "auto" else "as asked for"
    features = "as asked for" if config.sam_ckpt.is_file() else f"there is no {config.sam_ckpt}"
    rows = [
        ("scans", f"{len(cohort.labeled)} labeled, {len(cohort.unlabeled)} unlabeled, {len(cohort.validation)} "
                  f"validation volumes of {config.root_path}"),
        ("method", f"{config.backbone} with {config.model}, {config.num_rounds} rounds of {config.max_iterations} "
                   f"iterations, patch {' '.join(map(str, config.patch_size))}"),
        ("round 0", f"{config.propagation} propagation, {config.features} features"
                    + (f" ({features})" if config.features == "builtin" else "")),
        ("device", f"{name} ({why})"),
        ("precision", f"{precision} ({precision_why})"),
        ("volumes", f"kept {'in RAM' if place == 'ram' else 'on the GPU' if place == 'gpu' else 'in their files'} "
                    f"({'auto: ' if config.cache == 'auto' else ''}{place_reason})"),
        ("run folder", str(folder)),
    ]  # fmt: skip
    return "\n".join(f"{key + ':':<12}{value}" for key, value in rows)


def closing(records: Sequence[RoundRecord]) -> str:
    """Return a table with a row per round; a star marks the round whose model was kept."""
    best = best_round(records)
    rows = [("round", "pseudo-label Dice", "uncertainty", "refined", "validation Dice", "best at", "time")]
    for record in records:
        rows.append(
            (
                f"{record.round}{' *' if record.trained and record is best else '  '}",
                _number(record.pseudo_dice),
                _number(record.uncertainty),
                str(len(record.refined)),
                _number(record.validation_dice),
                str(record.best_iteration) if record.trained else "–",
                duration(record.seconds),
            )
        )
    return "\n".join(text_table(rows))


def next_commands(config: TrainConfig) -> str:
    """Return the commands that test the run, show it and export its labels."""
    code = PROJECT_ROOT / "code"
    run = f"--exp {shlex.quote(config.exp)} --backbone {config.backbone}"
    return "\n".join(
        [
            "next:",
            f"  python {code / 'test_baseline.py'} --root_path {shlex.quote(str(config.root_path))} {run}",
            f"  python {code / 'report.py'} {shlex.quote(config.exp)} --backbone {config.backbone}",
            f"  python {code / 'predict.py'} {run} --cohort --out labels",
        ]
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
