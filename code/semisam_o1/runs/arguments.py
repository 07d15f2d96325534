"""args.json: the arguments, data and environment of a run, and the check that a resumed run is the same one."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
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


def read_run_arguments(folder: RunFolder) -> dict[str, Any] | None:
    """Return the content of args.json, None where no run was started in the folder.

    Raises:
        InputError: if it cannot be read, or is gone while a run's files are there.
    """
    try:
        content = json.loads(folder.args.read_text(encoding="utf-8"))
        if not all(isinstance(content[part], dict) for part in ("arguments", "data", "versions")):
            raise ValueError("parts of it are missing")
    except FileNotFoundError:
        if folder.state.exists() or folder.labeled_rounds():
            raise InputError(
                f"{folder.args} is missing, so the run cannot be resumed; start anew with --overwrite"
            ) from None
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder.args} cannot be read ({error}); start anew with --overwrite") from None
    return content


def check_same_run(
    before: dict[str, Any], config: Any, cohort: Cohort, precision: str, features: str, folder: RunFolder
) -> None:
    """Refuse to resume a run that was started with other arguments or other data.

    Args:
        before: what ``read_run_arguments`` returned.
        precision: as resolved.
        features: key of the feature set.

    Raises:
        InputError: naming what changed.
    """
    defaults = _plain(type(config)())
    then, now = {**defaults, **before["arguments"]}, _plain(config)
    compared = {item.name for item in dataclasses.fields(config) if item.metadata["resume"] == "same"}
    changed = [
        f"--{name} was {then[name]} and is {value}"
        for name, value in now.items()
        if name in compared and then[name] != value
    ]
    if before.get("precision", precision) != precision:
        changed.append(f"--precision was {before['precision']} and is {precision}")
    if changed:
        raise InputError(
            f"the run in {folder.path} was started with other arguments ({'; '.join(changed)}); give the same ones to "
            "continue, or start anew with --overwrite or another --exp"
        )
    if before.get("features", features) != features:
        raise InputError(
            f"--sam_ckpt holds other weights than the run in {folder.path} was started with ({features}, before: "
            f"{before['features']}); give the same file to continue, or start anew with --overwrite or another --exp"
        )
    for part, values in cohort.fingerprint.items():
        earlier = before["data"].get(part, {})
        differing = sorted(name for name in {*earlier, *values} if earlier.get(name) != values.get(name))
        if differing or list(earlier) != list(values):
            raise InputError(
                f"{part} of {config.root_path} changed since the run in {folder.path} was started "
                f"({', '.join(differing) or 'the order'}); restore it to continue, or start anew with --overwrite or "
                "another --exp"
            )


def changed_environment(before: dict[str, Any], device: torch.device) -> list[str]:
    """Return a sentence that lists what may keep a resumed run from ending bit-identical; empty if nothing changed."""
    now = _environment(device)
    changed = [
        f"{name} {before['versions'].get(name)} → {version}"
        for name, version in now["versions"].items()
        if before["versions"].get(name) != version
    ]
    changed += [
        f"{name} {before.get(name)} → {now[name]}"
        for name in ("device", "processes", "git")
        if before.get(name) != now[name]
    ]
    return [f"the run continues in another environment, its last digits may differ: {', '.join(changed)}"] * bool(
        changed
    )


def _plain(config: Any) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    return {
        name: str(v) if hasattr(v, "parts") else list(v) if isinstance(v, tuple) else v for name, v in values.items()
    }


def write_arguments(
    config: Any,
    cohort: Cohort,
    folder: RunFolder,
    device: torch.device,
    precision: str,
    features: str,
    before: dict[str, Any] | None = None,
) -> None:
    """Write args.json: the resolved arguments and whatever else the result depends on.

    Args:
        before: content of args.json of a resumed run; its earlier environments are kept.
    """
    environment, preparation = _environment(device), read_preparation(config.root_path)
    earlier = [] if before is None else before.get("earlier", [])
    last = None if before is None else {key: before.get(key) for key in environment}
    if last not in (None, environment):
        earlier = [*earlier, last]
    content = {
        "arguments": _plain(config),
        "precision": precision,
        "features": features,
        **environment,
        "earlier": earlier,
        "preparation": preparation.to_json() if preparation else None,
        "data": cohort.fingerprint,
    }
    write_json(folder.args, content)


def _environment(device: torch.device) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "processes": distributed.world_size(),
        "versions": {"semisam_o1": __version__, "torch": torch.__version__, "numpy": np.__version__,
                     "python": platform.python_version()},
        "git": _git_revision(),
    }  # fmt: skip


def _git_revision() -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(PROJECT_ROOT), "describe", "--always", "--dirty"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
