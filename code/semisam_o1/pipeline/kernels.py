"""How a run computes its networks on a GPU: as before, as found earlier for this GPU, or as found by trying."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from semisam_o1 import __version__
from semisam_o1.core import distributed
from semisam_o1.core.atomic_io import WriteError, write_json
from semisam_o1.core.seeding import torch_generator
from semisam_o1.networks.kernels import Kernels
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.start import PreflightResult
from semisam_o1.runs.arguments import write_kernels
from semisam_o1.training.tuning import TOLERANCE, TrainingTrial, choices, fastest, table


def choose_kernels(config: TrainConfig, checked: PreflightResult, say: Callable[[str], None]) -> Kernels:
    """Return how the run computes, set cuDNN accordingly, and keep the choice in args.json.

    A resumed run computes as it did before. Several processes share what is tried, so they use the reference.
    """
    kernels = Kernels(benchmark=not config.deterministic)
    on_gpu = checked.device.type == "cuda"
    if on_gpu and checked.previous is not None:
        kernels = Kernels.from_json(checked.previous.get("kernels")) or kernels
    elif on_gpu and config.tune == "auto" and distributed.world_size() == 1:
        kernels = _tune(config, checked, say)
    if on_gpu and distributed.is_main():
        write_kernels(checked.folder, dataclasses.asdict(kernels))
    torch.backends.cudnn.benchmark = kernels.benchmark
    return kernels


def _tune(config: TrainConfig, checked: PreflightResult, say: Callable[[str], None]) -> Kernels:
    """Return what was found earlier for this GPU, these versions and shapes, or find it."""
    path, key = _memory(), _situation(config, checked)
    found = _recall(path)
    known = Kernels.from_json(found.get(key))
    if known is not None:
        say(f"computed with {known} (the fastest on this GPU, as found before; {path})")
        return known
    shape = (config.batch_size, 1, *config.patch_size)
    precision = checked.precision
    student = config.new_network(torch_generator(0))
    trial = TrainingTrial(student, config.backbone, config, shape, config.labeled_bs, checked.device, precision)
    best, attempts = fastest(trial, choices(config.backbone, bool(config.deterministic)), TOLERANCE[precision])
    del trial
    torch.cuda.empty_cache()
    say(table(attempts, best))
    with contextlib.suppress(WriteError):  # then it is found anew the next time
        write_json(path, found | {key: dataclasses.asdict(best)})
    return best


def _memory() -> Path:
    """Return the file that remembers what was found, in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semisam_o1" / "kernels.json"


def _situation(config: TrainConfig, checked: PreflightResult) -> str:
    """Return everything that the fastest way depends on, as a key."""
    versions = (__version__, torch.__version__, torch.version.cuda, torch.backends.cudnn.version())
    shapes = (config.batch_size, config.labeled_bs, *config.patch_size, config.num_classes)
    names = (torch.cuda.get_device_name(checked.device), config.backbone, config.model, checked.precision)
    return " ".join(map(str, (*names, *shapes, "deterministic" if config.deterministic else "any", *versions)))


def _recall(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
