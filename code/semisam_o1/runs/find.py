"""How a trained model is found: by the folder it lies in, or by the name of its experiment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semisam_o1.core.errors import InputError
from semisam_o1.methods import METHODS
from semisam_o1.networks import NETWORKS
from semisam_o1.runs import layout
from semisam_o1.runs.arguments import read_arguments


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint and what is known of its training (empty where nothing is), and of its data's preparation."""

    folder: Path
    checkpoint: Path
    model: str
    arguments: dict[str, Any]
    preparation: dict[str, Any] | None = None


def find_trained(
    exp: str,
    model: str | None = None,
    ckpt: str | None = None,
    backbone: str | None = None,
    labeled_num: int | None = None,
) -> TrainedModel:
    """Find the checkpoint that ``test_baseline.py`` is to test.

    ``exp`` is a folder below model/ (with ``labeled_num``, the folder ``{exp}_{labeled_num}``), or the
    experiment name that training was given. In the latter case ``backbone`` and ``labeled_num`` choose; a
    given ``backbone`` says that it is the latter. An absolute ``ckpt`` is the checkpoint itself.

    Raises:
        InputError: listing what there is, if there is no such checkpoint or more than one.
    """
    if ckpt is not None and Path(ckpt).is_absolute():
        return _trained_at(Path(ckpt), model)
    literal = [layout.MODEL_ROOT / (f"{exp}_{labeled_num}" if labeled_num is not None else exp)]
    runs = _runs_of(exp, backbone, labeled_num)
    names = [model] if model else list(NETWORKS)
    for folders in (runs, literal) if backbone else (literal, runs):
        candidates = [folder / name / (ckpt or f"{name}_best_model.pth") for folder in folders for name in names]
        found = [path for path in candidates if path.is_file()]
        if len(found) > 1 and folders is runs:
            listing = "\n".join(f"  {path}" for path in found)
            raise InputError(
                f"--exp {exp} has several trained models; choose with --backbone, --model or --labeled_num:\n{listing}"
            )
        if found:
            return _trained_at(found[0], model)
    raise InputError(_nothing_found(exp, names, ckpt, literal[0], [*literal, *runs]))


def find_run_folder(run: str | Path, backbone: str | None = None) -> Path:
    """Return the folder with an args.json that a path or the name of an experiment refers to.

    Raises InputError, listing the runs, if there is none or more than one.
    """
    for path in (Path(run).expanduser().resolve(), layout.MODEL_ROOT / run):
        inside = [path, *sorted(path.glob("*"))] if path.is_dir() else []
        found = [folder for folder in inside if (folder / "args.json").is_file()]
        if len(found) > 1:
            raise InputError(f"{path} holds several runs; name one of {', '.join(map(str, found))}")
        if found:
            return found[0]
    return find_trained(str(run), backbone=backbone).folder


def _trained_at(checkpoint: Path, model: str | None) -> TrainedModel:
    if not checkpoint.is_file():
        raise InputError(f"--ckpt {checkpoint} is missing")
    folder = checkpoint.parent
    model = model or (folder.name if folder.name in NETWORKS else "unet_3D")
    content = read_arguments(folder / "args.json")
    return TrainedModel(folder, checkpoint, model, content.get("arguments", {}), content.get("preparation"))


def _runs_of(exp: str, backbone: str | None, labeled_num: int | None) -> list[Path]:
    parent, stem = (layout.MODEL_ROOT / exp).parent, (layout.MODEL_ROOT / exp).name
    backbones = [backbone] if backbone else list(METHODS)
    pattern = re.compile(
        rf"{re.escape(stem)}_({'|'.join(b.upper() for b in backbones)})_{labeled_num or r'[0-9]+'}label_1"
    )
    return sorted(path for path in parent.glob("*/") if pattern.fullmatch(path.name))


def _nothing_found(exp: str, names: list[str], ckpt: str | None, literal: Path, folders: list[Path]) -> str:
    wanted = ckpt or " or ".join(f"{name}_best_model.pth" for name in names)
    for folder in folders:
        files = (path for path in folder.glob("*/*.pth") if not path.name.startswith("state"))
        checkpoints = sorted(str(path.relative_to(folder)) for path in files)
        if checkpoints:
            listing = "\n".join(f"  {name}" for name in checkpoints)
            return f"no {wanted} in {folder}; --ckpt and --model choose among the files there:\n{listing}"
    parent = literal.parent
    there = f"it holds {', '.join(sorted(path.name for path in parent.glob('*/'))) or 'no run'}"
    return f"--exp {exp}: no trained model at {literal} nor any run of that name in {parent} ({there}); train it first"
