"""How a trained model is found: by the folder it lies in, or by the name of its experiment."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semisam_o1.core.errors import InputError, first_line, raise_faults
from semisam_o1.core.flags import ZOOM
from semisam_o1.features.extract import FEATURE_SETS
from semisam_o1.methods import METHODS
from semisam_o1.networks import NETWORKS
from semisam_o1.networks.levels import parse_levels
from semisam_o1.runs import layout
from semisam_o1.runs.arguments import read_arguments
from semisam_o1.runs.bundle import DESCRIPTION, WEIGHTS, is_bundle, read_bundle

TEXTS, SWITCHES = ("root_path", "exp", "image_key", "sam_ckpt"), ("binary_label", "largest_component", "registration")


def _whole(low: int, high: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_patch(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(side) is int and side > 0 for side in value)


def _are_zooms(value: Any) -> bool:
    numbers = isinstance(value, list) and all(type(zoom) in (int, float) and zoom in ZOOM for zoom in value)
    return numbers and 0 < len(value) <= 100


def _are_levels(value: Any) -> bool:
    try:
        return bool(parse_levels(value))
    except (TypeError, ValueError):
        return False


# Arguments in args.json that commands rely on: which values are sound, and how to say so.
SOUND: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_classes": (_whole(2, 255), "a whole number from 2 to 255"),
    "labeled_num": (_whole(1), "a whole number from 1"),
    "max_iterations": (_whole(1), "a whole number from 1"),
    "knn_k": (_whole(1), "a whole number from 1"),
    "features": (lambda value: value in tuple(FEATURE_SETS), f"one of {', '.join(FEATURE_SETS)}"),
    "patch_size": (_is_patch, "three positive whole numbers"),
    "zooms": (_are_zooms, f"one to a hundred numbers from {ZOOM.low:g} to {ZOOM.high:g}"),
    "network_levels": (_are_levels, "kernels and strides of four levels, or isotropic"),
    "model": (lambda value: value in tuple(NETWORKS), f"one of {', '.join(NETWORKS)}"),
    "backbone": (lambda value: value in tuple(METHODS), f"one of {', '.join(METHODS)}"),
    **{name: (lambda value: isinstance(value, str) and value != "", "a text") for name in TEXTS},
    **{name: (lambda value: isinstance(value, bool), "true or false") for name in SWITCHES},
}


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint and what is known of its training (empty where nothing is), of its scans and their preparation."""

    folder: Path
    checkpoint: Path
    model: str
    arguments: dict[str, Any]
    preparation: dict[str, Any] | None = None
    scans: dict[str, Any] | None = None
    packed: dict[str, Any] | None = None  # what a bundle says of the training, None for a run folder

    @property
    def record(self) -> str | None:
        """Name of the weights in the checkpoint, where that is a bundle."""
        return WEIGHTS if is_bundle(self.checkpoint) else None

    @property
    def described_in(self) -> str:
        """Where arguments, preparation and scans stand, for messages."""
        return str(self.folder / "args.json") if self.record is None else f"{self.checkpoint}, {DESCRIPTION}"


def find_trained(
    exp: str,
    model: str | None = None,
    ckpt: str | None = None,
    backbone: str | None = None,
    labeled_num: int | None = None,
) -> TrainedModel:
    """Find the checkpoint to test; raises InputError, listing what there is, if there is none or more than one.

    ``exp`` is a folder below model/ (with ``labeled_num``, the folder ``{exp}_{labeled_num}``), the experiment name
    that training was given, or the path of a run folder. For an experiment name ``backbone`` and ``labeled_num``
    choose; a given ``backbone`` says that it is one. An absolute ``ckpt`` is the checkpoint itself. Either may be a
    file that export.py wrote.
    """
    for name in (ckpt, exp):
        _check_path(name)
        if is_bundle(name):
            return _trained_in(Path(name).expanduser().absolute())
    if ckpt is not None and Path(ckpt).is_absolute():
        return _trained_at(Path(ckpt), model)
    literal = [layout.MODEL_ROOT / (f"{exp}_{labeled_num}" if labeled_num is not None else exp)]
    runs, path = _runs_of(exp, backbone, labeled_num), Path(exp).expanduser().absolute()
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
    for folder in (path, *(path / name for name in names)) if exp else ():  # not below model/: as the shell sees it
        found = [file for name in names if (file := folder / (ckpt or f"{name}_best_model.pth")).is_file()]
        if found:
            return _trained_at(found[0], model)
    raise InputError(_nothing_found(exp, names, ckpt, literal[0], [*literal, *runs]))


def find_run_folder(run: str | Path, backbone: str | None = None) -> Path:
    """Return the folder with an args.json that a path or the name of an experiment refers to.

    Raises InputError, listing the runs, if there is none or more than one.
    """
    _check_path(run)
    for path in (Path(run).expanduser().resolve(), layout.MODEL_ROOT / run):
        inside = [path, *sorted(path.glob("*"))] if path.is_dir() else []
        found = [folder for folder in inside if (folder / "args.json").is_file()]
        if len(found) > 1:
            raise InputError(f"{path} holds several runs; name one of {', '.join(map(str, found))}")
        if found:
            return found[0]
    return find_trained(str(run), ckpt="args.json", backbone=backbone).folder  # a run has it before any checkpoint


def _check_path(name: str | Path | None) -> None:
    """Raise InputError for what no file can be called."""
    try:
        os.lstat(os.path.expanduser(str(name or ".")))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # it may be the name of an experiment
    except (OSError, ValueError) as error:
        raise InputError(f"{str(name)[:80]!r} is no run and no file ({first_line(error)[:80]}); name one") from None


def _trained_at(checkpoint: Path, model: str | None) -> TrainedModel:
    if not checkpoint.is_file():
        raise InputError(f"--ckpt {checkpoint} is missing")
    folder = checkpoint.parent
    content = read_sound_arguments(folder / "args.json")
    arguments = content.get("arguments", {})
    model = model or (folder.name if folder.name in NETWORKS else arguments.get("model", "unet_3D"))
    return TrainedModel(folder, checkpoint, model, arguments, content.get("preparation"), content.get("scans"))


def _trained_in(bundle: Path) -> TrainedModel:
    content = read_bundle(bundle)
    arguments = content["arguments"]
    _check_sound(arguments, f"{bundle}, {DESCRIPTION}")
    parts = (content.get(part) for part in ("preparation", "scans", "training"))
    parts = (part if isinstance(part, dict) else None for part in parts)
    return TrainedModel(bundle.parent, bundle, arguments.get("model", "unet_3D"), arguments, *parts)


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


def read_sound_arguments(path: Path) -> dict[str, Any]:
    """Return the content of a run's args.json, empty where there is none.

    Raises:
        InputError: if it cannot be read, or states what training would not have written.
    """
    content = read_arguments(path)
    _check_sound(content.get("arguments", {}), str(path))
    return content


def _check_sound(arguments: dict[str, Any], where: str) -> None:
    wrong = [
        f"{where}: {name} must be {expected}, it is {arguments[name]!r}; restore the file"
        for name, (sound, expected) in SOUND.items()
        if name in arguments and not sound(arguments[name])
    ]
    raise_faults(wrong, "entries were changed")
