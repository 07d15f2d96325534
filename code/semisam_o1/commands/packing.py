"""A trained network packed into one file to hand on, with a card about it, and in ONNX beside it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from semisam_o1 import __version__
from semisam_o1.commands.model_card import model_card
from semisam_o1.commands.outputs import check_folder
from semisam_o1.commands.trained import OF_LABELS, OF_NETWORK, LoadedModel, TrainedConfig, load_model
from semisam_o1.core.errors import InputError
from semisam_o1.core.flags import assign, option
from semisam_o1.data.preparation.settings import read_classes, read_preparation
from semisam_o1.runs.best import best_round
from semisam_o1.runs.bundle import SUFFIX, read_bundle, write_bundle
from semisam_o1.runs.find import TrainedModel
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import known_records

PRIVATE = ("root_path", "sam_ckpt")  # arguments that name folders of this machine


@dataclass(frozen=True, kw_only=True)
class ExportConfig(TrainedConfig):
    """Flags of ``export.py``."""

    run: str = option(None, "a trained run: its folder, or the name of its experiment", positional=True, metavar="RUN")
    out: Path = option(None, "the file to write", positional=True, metavar="MODEL.zip")
    onnx: bool | None = option(None, "write MODEL.onnx beside it (default: where the package onnx is installed)")
    overwrite: bool = option(False, "replace the files")
    # No flags here: a packed network is loaded on the CPU and predicts nothing.
    exp: str | None = None
    stride_xy: int | None = None
    stride_z: int | None = None
    image_key: str | None = None
    zooms: tuple[float, ...] | None = None
    correction: bool | None = False
    precision: str = "fp32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        assign(self, out=Path(self.out).expanduser(), exp=self.run)
        super().__post_init__()

    def faults(self) -> list[str]:
        faults = super().faults()
        if self.out.suffix.lower() != SUFFIX:
            faults.append(f"{self.out} must end with {SUFFIX}; name the file so")
        if self.onnx and importlib.util.find_spec("onnx") is None:
            faults.append("--onnx needs the package onnx; install it (pip install onnx onnxruntime), or leave it out")
        return faults


def export(config: ExportConfig) -> list[Path]:
    """Pack a trained network into one file; return the files written.

    Raises:
        InputError: if there is no such network, or a file must not be replaced; nothing was written then.
    """
    wanted = config.onnx if config.onnx is not None else importlib.util.find_spec("onnx") is not None
    files = [config.out, *([config.out.with_suffix(".onnx")] if wanted else [])]
    check_folder(config.out.parent, str(config.out))
    for path in files:
        if path.exists() and not (config.overwrite and (path != config.out or _is_ours(path))):
            raise InputError(f"{path} exists; name another file, or --overwrite what export.py wrote")
    model = load_model(config, torch.device(config.device))
    description = describe(model)
    weights = {key: value.contiguous() for key, value in model.predictor.network.state_dict().items()}
    write_bundle(config.out, description, weights, model_card(description))
    print(f"written: {config.out} ({config.out.stat().st_size / 2**20:.1f} MiB), for predict.py --exp and load_run")
    if wanted:
        from semisam_o1.commands.onnx_file import write_onnx

        difference, by = write_onnx(files[1], model.predictor.network)
        print(f"written: {files[1]}; its probabilities differ by at most {difference:.0e} from PyTorch's, by {by}")
    return files


def _is_ours(path: Path) -> bool:
    try:
        read_bundle(path)
    except InputError:
        return False
    return True


def describe(model: LoadedModel[ExportConfig]) -> dict[str, Any]:
    """Return what a bundle says of a network: how to build it, how to prepare a scan, and how it was trained."""
    trained, config = model.trained, model.config
    arguments = {key: value for key, value in trained.arguments.items() if key not in PRIVATE}
    resolved = {name: getattr(config, name) for name in (*OF_NETWORK, *OF_LABELS, "zooms")}
    name = Path(str(arguments.get("exp", trained.folder.parent.name))).name
    return {
        "arguments": {**arguments, **resolved, "exp": name},
        "preparation": trained.preparation or _preparation_of(trained.arguments),
        "scans": trained.scans,
        "training": _training(trained) | {"decision_bias": model.predictor.bias, "reliability": model.reliability},
        "version": __version__,
    }


def _preparation_of(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings that lie in the dataset folder of a run, for one that did not record them."""
    root = Path(arguments.get("root_path", ""))
    settings = read_preparation(root) if "root_path" in arguments else None
    return None if settings is None else settings.to_json() | read_classes(root).to_json()


def _training(trained: TrainedModel) -> dict[str, Any]:
    """Return how a network was selected and what it scored, as far as its run recorded it."""
    records = known_records(RunFolder(trained.folder, trained.model)) if trained.record is None else []
    if not records or not best_round(records).trained:
        return {}
    best = best_round(records)
    return {
        "round": best.round,
        "iteration": best.best_iteration,
        "validation_dice": best.validation_dice,
        "checkpoint": trained.checkpoint.name,
    }
