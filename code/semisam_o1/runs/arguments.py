"""args.json: the arguments, data and environment of a run, and the check that a resumed run is the same one."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semisam_o1 import PROJECT_ROOT, __version__
from semisam_o1.core import distributed
from semisam_o1.core.atomic_io import write_json
from semisam_o1.core.errors import InputError
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.preparation.settings import read_preparation
from semisam_o1.runs.layout import RunFolder

ANEW = "or start anew with --overwrite or another --exp"


def read_run_arguments(folder: RunFolder) -> dict[str, Any] | None:
    """Return the content of args.json, None where no run was started in the folder.

    Raises:
        InputError: if it cannot be read, or is missing although files of a run exist.
    """
    try:
        content = json.loads(folder.args.read_text(encoding="utf-8"))
        if not all(isinstance(content[part], dict) for part in ("arguments", "data", "versions")):
            raise ValueError("parts of it are missing")
        return content
    except FileNotFoundError:
        if not folder.state.exists() and not folder.labeled_rounds():
            return None
        reason = "is missing, so the run cannot be resumed"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"cannot be read ({error})"
    raise InputError(f"{folder.args} {reason}; start anew with --overwrite")


def describe_run(config: Any, cohort: Cohort, device: torch.device, precision: str, features: str) -> dict[str, Any]:
    """Return the content of args.json: the resolved arguments and everything else that the result depends on.

    Args:
        features: key of the feature set.
    """
    preparation = read_preparation(config.root_path)
    return {
        "arguments": _plain(config),
        "precision": precision,
        "features": features,
        **_environment(device),
        "earlier": [],
        "preparation": preparation.to_json() if preparation else None,
        "data": cohort.fingerprint,
    }


def check_same_run(before: dict[str, Any], now: dict[str, Any], config: Any, folder: RunFolder) -> None:
    """Refuse to resume a run that was started with other arguments or other data.

    Args:
        before: content of args.json.
        now: what ``describe_run`` returned for the run that is to continue it.

    Raises:
        InputError: naming what changed.
    """
    then, run = _plain(type(config)()) | before["arguments"], f"the run in {folder.path} was started"
    compared = [item.name for item in dataclasses.fields(config) if item.metadata["resume"] == "same"]
    pairs = {name: (then[name], now["arguments"][name]) for name in compared}
    pairs["precision"] = (before.get("precision", now["precision"]), now["precision"])
    changed = [f"--{name} was {old} and is {new}" for name, (old, new) in pairs.items() if old != new]
    if changed:
        arguments = f"{run} with other arguments ({'; '.join(changed)})"
        raise InputError(f"{arguments}; give the same ones to continue, {ANEW}")
    if before.get("features", now["features"]) != now["features"]:
        weights = f"({now['features']}, before: {before['features']})"
        raise InputError(f"--sam_ckpt holds other weights than {run} with {weights}; give the same file, {ANEW}")
    for part, values in now["data"].items():
        earlier = before["data"].get(part, {})
        differing = sorted(name for name in {*earlier, *values} if earlier.get(name) != values.get(name))
        if differing or list(earlier) != list(values):
            what = f"{part} of {config.root_path} changed since {run} ({', '.join(differing) or 'the order'})"
            raise InputError(f"{what}; restore it to continue, {ANEW}")


def changed_environment(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a sentence on what may keep a resumed run from ending bit-identical; empty if nothing changed."""
    pairs = {name: (before["versions"].get(name), version) for name, version in now["versions"].items()}
    pairs |= {name: (before.get(name), now[name]) for name in ("device", "processes", "git")}
    changed = ", ".join(f"{name} {old} → {new}" for name, (old, new) in pairs.items() if old != new)
    return [f"the run continues in another environment, its last digits may differ: {changed}"] if changed else []


def write_arguments(folder: RunFolder, now: dict[str, Any], before: dict[str, Any] | None = None) -> None:
    """Write args.json; of a resumed run the earlier environments are kept."""
    earlier = list(before.get("earlier", [])) if before else []
    keys = ("device", "processes", "versions", "git")
    if before and any(before.get(key) != now[key] for key in keys):
        earlier.append({key: before.get(key) for key in keys})
    kept = {"kernels": before["kernels"]} if before and "kernels" in before else {}
    write_json(folder.args, now | {"earlier": earlier} | kept)


def write_kernels(folder: RunFolder, kernels: dict[str, Any]) -> None:
    """Add to args.json how networks are computed, for the runs that continue this one."""
    write_json(folder.args, read_run_arguments(folder) | {"kernels": kernels})


def _plain(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON stores it."""
    as_json = {Path: str, tuple: list}
    values = dataclasses.asdict(config)
    return {
        name: next((make(value) for kind, make in as_json.items() if isinstance(value, kind)), value)
        for name, value in values.items()
    }


def _environment(device: torch.device) -> dict[str, Any]:
    git = ["git", "-C", str(PROJECT_ROOT), "describe", "--always", "--dirty"]
    try:
        revision = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = None
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "processes": distributed.world_size(),
        "versions": {"semisam_o1": __version__, **versions},
        "git": revision,
    }
