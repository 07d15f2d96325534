"""args.json: what a run was started with, and whether the same run goes on."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import PROJECT_ROOT, __version__, distributed
from .config import TrainConfig
from .data.check import Cohort
from .data.preparation import read_preparation
from .errors import InputError
from .run_folder import RunFolder

# What may differ between a run and its continuation without changing what comes out of it.
HARMLESS = frozenset(
    {
        "device",
        "cache",
        "num_workers",
        "num_rounds",
        "log_images",
        "labels_for_diagnosis",
        "save_interval",
        "resume",
        "overwrite",
        "debug",
    }
)


def check_same_run(config: TrainConfig, cohort: Cohort, folder: RunFolder) -> None:
    """Refuse to go on with a run that was started with other arguments or other data.

    Raises:
        InputError: naming what changed.
    """
    try:
        content = json.loads(folder.args.read_text(encoding="utf-8"))
        before, data = content["arguments"], content["data"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder.args} cannot be read ({error}); start anew with --overwrite") from None
    now = _plain(config)
    changed = [
        f"--{name} was {before[name]} and is {value}"
        for name, value in now.items()
        if name not in HARMLESS and name in before and before[name] != value
    ]
    if changed:
        raise InputError(
            f"the run in {folder.path} was started with other arguments ({'; '.join(changed)}); give the same ones to "
            "go on, or start anew with --overwrite or another --exp"
        )
    for part, now in cohort.fingerprint.items():
        then = data.get(part, {})
        changed = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
        if changed or list(then) != list(now):
            raise InputError(
                f"{part} of {config.root_path} changed since the run in {folder.path} was started "
                f"({', '.join(changed) or 'the order'}); bring it back to go on, or start anew with --overwrite or "
                "another --exp"
            )


def _plain(config: TrainConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    return {
        name: str(v) if hasattr(v, "parts") else list(v) if isinstance(v, tuple) else v for name, v in values.items()
    }


def write_arguments(
    config: TrainConfig, cohort: Cohort, folder: RunFolder, device: torch.device, precision: str
) -> None:
    """Write args.json: the resolved arguments and what else the result depends on."""
    preparation = read_preparation(config.root_path)
    content = {
        "arguments": _plain(config),
        "precision": precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "processes": distributed.world_size(),
        "versions": {"semisam_o1": __version__, "torch": torch.__version__, "numpy": np.__version__,
                     "python": platform.python_version()},
        "git": _git_revision(),
        "preparation": preparation.to_json() if preparation else None,
        "data": cohort.fingerprint,
    }  # fmt: skip
    write_json(folder.args, content)


def _git_revision() -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(PROJECT_ROOT), "describe", "--always", "--dirty"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
