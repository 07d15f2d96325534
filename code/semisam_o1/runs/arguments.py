"""args.json: the arguments, data and environment of a run, and the check that a resumed run is the same one."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semisam_o1 import PROJECT_ROOT, __version__
from semisam_o1.core import distributed
from semisam_o1.core.atomic_io import read_json, write_json
from semisam_o1.core.errors import InputError
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.preparation.settings import read_classes, read_preparation
from semisam_o1.methods import MethodOptions
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.seen import SeenScans

ANEW = "or start anew with --overwrite or another --exp"


def read_arguments(path: Path, parts: Sequence[str] = ("arguments",)) -> dict[str, Any]:
    """Return the content of a run's args.json, empty where there is none; raises InputError if it lacks a part."""
    remedy = "delete it and give the settings as flags, or train anew with --overwrite"
    content = read_json(path, remedy)
    if content is not None and not all(isinstance(content.get(part), dict) for part in parts):
        raise InputError(f"{path} lacks what describes a run; {remedy}")
    return content or {}


def read_previous(folder: RunFolder) -> dict[str, Any] | None:
    """Return the content of args.json of the run that is to be resumed, None where none was started in the folder.

    Raises InputError if it cannot be read, or is missing although files of a run exist.
    """
    content = read_arguments(folder.args, ("arguments", "data", "versions"))
    if not content and (folder.state.exists() or folder.labeled_rounds()):
        raise InputError(f"{folder.args} is missing, so the run cannot be resumed; start anew with --overwrite")
    return content or None


def describe_run(config: Any, cohort: Cohort, device: torch.device, precision: str, features: str) -> dict[str, Any]:
    """Return the content of args.json: the arguments, the key of the features, and what else the result depends on."""
    preparation = read_preparation(config.root_path)
    git = ["git", "-C", str(PROJECT_ROOT), "describe", "--always", "--dirty"]
    try:
        revision = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = None
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {
        "arguments": _as_json(config),
        "precision": precision,
        "features": features,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "processes": distributed.world_size(),
        "versions": {"semisam_o1": __version__, **versions},
        "git": revision,
        "earlier": [],
        "preparation": preparation.to_json() | read_classes(config.root_path).to_json() if preparation else None,
        "scans": SeenScans.of(cohort.info[name] for name in cohort.train).to_json(),
        "data": cohort.fingerprint,
    }


def check_same_run(before: dict[str, Any], now: dict[str, Any], config: Any, folder: RunFolder) -> None:
    """Raise InputError if a run was started with other arguments or other data, naming what changed.

    Args:
        before: content of args.json.
        now: what ``describe_run`` returned for the run that is to continue it.
    """
    then, run = _as_json(type(config)()) | before["arguments"], f"the run in {folder.path} was started"
    compared = [item.name for item in dataclasses.fields(config) if item.metadata["resume"] == "same"]
    pairs = {name: (then[name], now["arguments"][name]) for name in compared}
    pairs["precision"] = (before.get("precision", now["precision"]), now["precision"])
    pairs["sam_ckpt"] = (before.get("features", now["features"]), now["features"])
    raised = [item.name for item in dataclasses.fields(config) if item.metadata["resume"] == "more"]
    pairs |= {name: (then[name], now["arguments"][name]) for name in raised if now["arguments"][name] < then[name]}
    changed = [f"--{name} was {old} and is {new}" for name, (old, new) in pairs.items() if old != new]
    if changed:
        arguments = f"{run} with other arguments ({'; '.join(changed)})"
        raise InputError(f"{arguments}; give the same ones to continue, {ANEW}")
    for part, values in now["data"].items():
        earlier = before["data"].get(part, {})
        differing = sorted(name for name in {*earlier, *values} if earlier.get(name) != values.get(name))
        if differing or list(earlier) != list(values):
            what = f"{part} of {config.root_path} changed since {run} ({', '.join(differing) or 'the order'})"
            raise InputError(f"{what}; restore it to continue, {ANEW}")


def iterations_of(content: dict[str, Any]) -> int:
    """Return the iterations per round of a run by its args.json."""
    return int(content["arguments"].get("max_iterations", MethodOptions.max_iterations))


def write_arguments(folder: RunFolder, now: dict[str, Any], before: dict[str, Any] | None = None) -> list[str]:
    """Write args.json; of a resumed run the earlier environments are kept.

    Returns a sentence on what may keep a resumed run from ending bit-identical; none if nothing changed.
    """
    if before is None:
        write_json(folder.args, now)
        return []
    earlier = {key: before.get(key) for key in ("device", "processes", "versions", "git")}
    pairs = {name: (earlier["versions"].get(name), version) for name, version in now["versions"].items()}
    pairs |= {name: (earlier[name], now[name]) for name in ("device", "processes", "git")}
    changed = ", ".join(f"{name} {old} → {new}" for name, (old, new) in pairs.items() if old != new)
    kept = {"kernels": before["kernels"]} if "kernels" in before else {}
    write_json(folder.args, now | {"earlier": before.get("earlier", []) + [earlier] * bool(changed)} | kept)
    return [f"the run continues in another environment, its last digits may differ: {changed}"] if changed else []


def write_kernels(folder: RunFolder, kernels: dict[str, Any]) -> None:
    """Add to args.json how networks are computed, for the runs that continue this one."""
    write_json(folder.args, read_arguments(folder.args) | {"kernels": kernels})


def _as_json(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON stores it: paths as text, tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))
