"""The settings of a training and of a test run: one frozen dataclass each, and the parsers made from them."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from . import PROJECT_ROOT
from .data.augment import KINDS as AUGMENTATIONS
from .data.batches import ORIENTATIONS
from .data.volumes import Dataset
from .errors import InputError
from .features.extract import FEATURE_SETS
from .methods import METHODS
from .networks import NETWORKS

Config = TypeVar("Config")


def option(default: Any, help: str, **keywords: Any) -> Any:
    """Declare a dataclass field that is also a command-line flag; ``keywords`` go to argparse."""
    return field(default=default, metadata={"help": help, **keywords})


def on_off(text: str) -> bool:
    """Read a switch: on, off, and what else people write for them."""
    switches = {
        "on": True,
        "1": True,
        "true": True,
        "yes": True,
        "off": False,
        "0": False,
        "false": False,
        "no": False,
    }
    if text.lower() not in switches:
        raise argparse.ArgumentTypeError(f"{text!r} is neither on nor off")
    return switches[text.lower()]


RECIPES: dict[str, dict[str, Any]] = {
    "published": {},
    "best": {
        "backbone": "mt",
        "propagation": "atlas",
        "refinement": "fusion",
        "confidence_weights": True,
        "use_teacher": True,
        "warm_start": True,
        "augmentation": ("spatial", "intensity", "template"),
        "orientations": "none",
        "largest_component": True,
    },
}

SWITCH: dict[str, Any] = {"type": on_off, "nargs": "?", "const": True, "metavar": "on|off"}
THREE: dict[str, Any] = {"type": int, "nargs": 3, "metavar": ("W", "H", "D")}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that ``train_SemiSAM_O1.py`` can be told."""

    recipe: str = option(
        "published", "other defaults for the flags below: published, or best, the combination that scored highest",
        choices=tuple(RECIPES),
    )  # fmt: skip
    root_path: Path = option(PROJECT_ROOT / "data" / "LA", "the dataset folder", type=Path)
    exp: str = option("SemiSAM_O1/LA", "name of the experiment, a folder below model/")
    backbone: str = option("uamt", "semi-supervised method", choices=tuple(METHODS))
    model: str = option("unet_3D", "network (dtc always uses unet_3D_sdf)", choices=tuple(NETWORKS))
    max_iterations: int = option(15000, "iterations per round", type=int)
    num_rounds: int = option(3, "rounds of training and relabelling", type=int)
    labeled_num: int = option(1, "how many of the first names of train.txt are labelled", type=int)
    labeled_bs: int = option(1, "labelled items per batch", type=int)
    batch_size: int = option(2, "items per batch, over all processes", type=int)
    patch_size: tuple[int, int, int] = option((128, 128, 128), "voxels, each divisible by 16", **THREE)
    num_classes: int = option(2, "classes, background included", type=int)
    base_lr: float = option(0.01, "learning rate at the start of a round", type=float)
    DAN_lr: float = option(0.0001, "learning rate of dan's discriminator", type=float)
    ema_decay: float = option(0.99, "decay of the teacher's weights", type=float)
    warm_start: bool = option(False, "a round goes on from the best network of the round before", **SWITCH)
    pseudo_weight: float = option(1.0, "weight of the loss on pseudo-labels, once it has risen", type=float)
    use_teacher: bool = option(
        False, "the teacher is validated, kept and used instead of the student, where the method has one", **SWITCH
    )
    consistency: float = option(0.1, "weight of the consistency term", type=float)
    consistency_rampup: float = option(200.0, "its ramp-up, in units of 150 iterations", type=float)
    knn_k: int = option(5, "neighbours that vote on an uncertain volume", type=int)
    uncertainty_quantile: float = option(0.9, "volumes at or above this quantile are uncertain", type=float)
    registration: bool = option(
        True, "atlas: register volumes and ask neighbours; off: leave them as their matches align them", **SWITCH
    )
    refinement: str = option(
        "knn",
        "how labels are corrected between rounds: knn, a vote on whole uncertain volumes; fusion, by regions, with "
        "the labels of registered neighbours and of the template",
        choices=("knn", "fusion"),
    )
    confidence_weights: bool = option(False, "weigh pseudo-labels by their probability, voxel by voxel", **SWITCH)
    augmentation: tuple[str, ...] = option(
        (), "random changes to patches: any of spatial, intensity, template (warped as the other scans are shaped)",
        nargs="*", choices=AUGMENTATIONS, metavar="KIND",
    )  # fmt: skip
    largest_component: bool = option(False, "keep the largest connected part of each class only", **SWITCH)
    sam_ckpt: Path = option(Path("pretrained_ckpt/sam_med3d_turbo.pth"), "SAM-Med3D-turbo checkpoint", type=Path)
    propagation: str = option("prototype", "how round 0 spreads the template's label", choices=("prototype", "atlas"))
    features: str | None = option(
        None,
        "features for prototypes and neighbours: sam, or builtin (default: sam; builtin with "
        "--propagation atlas when the checkpoint is absent)",
        choices=tuple(FEATURE_SETS),
    )
    image_key: str = option("image", "HDF5 dataset that holds the image")
    binary_label: bool = option(False, "merge all labels above 0 into class 1", **SWITCH)
    orientations: str = option(
        "all",
        "orientations a patch is shown in: all eight of the first two axes, or fewer",
        choices=tuple(ORIENTATIONS),
    )
    seed: int = option(1337, "of everything that is random", type=int)
    deterministic: int = option(
        1, "1: no algorithm of cuDNN that differs from run to run; 0: the fastest one", type=int, choices=(0, 1)
    )
    device: str = option("auto", "auto: cuda where present, else cpu", choices=("auto", "cuda", "cpu"))
    precision: str = option(
        "auto",
        "auto: bf16 where the device computes it natively, else fp32",
        choices=("auto", "fp32", "bf16"),
    )
    cache: str = option(
        "auto",
        "where decoded volumes live; auto chooses by size and free memory",
        choices=("auto", "gpu", "ram", "none"),
    )
    num_workers: int = option(0, "processes that read patches, with --cache none", type=int)
    val_interval: int = option(200, "iterations between validations", type=int)
    val_stride: int = option(96, "voxels between windows in validation and relabelling (at most the patch)", type=int)
    save_interval: int = option(3000, "iterations between kept checkpoints", type=int)
    log_images: int = option(500, "iterations between TensorBoard slice overlays; 0: none", type=int)
    labels_for_diagnosis: bool = option(
        True, "score pseudo-labels where an unlabelled volume has a label (never trained on)", **SWITCH
    )
    state_interval: float = option(
        60.0, "seconds between saved states, or more where saving takes long; 0: after every iteration", type=float
    )
    max_time: float | None = option(
        None, "hours after which to save the state and stop, as a signal does (default: no limit)", type=float
    )
    check_only: bool = option(False, "check arguments, data and checkpoint, and stop", **SWITCH)
    resume: bool = option(False, "go on from the newest state in the run folder", **SWITCH)
    overwrite: bool = option(False, "delete what the run folder holds and start anew", **SWITCH)
    debug: bool = option(False, "show tracebacks", **SWITCH)

    def __post_init__(self) -> None:
        _set(
            self,
            root_path=Path(self.root_path).expanduser().resolve(),
            exp=str(Path(self.exp)),
            patch_size=tuple(self.patch_size),
            augmentation=tuple(self.augmentation),
            sam_ckpt=find_checkpoint(self.sam_ckpt),
        )
        if self.backbone == "dtc":
            _set(self, model=METHODS["dtc"].network)
        if self.features is None:
            builtin = self.propagation == "atlas" and not self.sam_ckpt.is_file()
            _set(self, features="builtin" if builtin else "sam")
        self._check()

    def _check(self) -> None:
        faults = _patch_faults(self.patch_size)
        if Path(self.exp).name in ("", ".."):
            faults.append(f"--exp must name a folder, it is {self.exp!r}")
        for name in ("max_iterations", "num_rounds", "labeled_num", "labeled_bs", "knn_k", "val_interval",
                     "val_stride", "save_interval"):  # fmt: skip
            if getattr(self, name) < 1:
                faults.append(f"--{name} must be at least 1, it is {getattr(self, name)}")
        for name in ("pseudo_weight", "consistency", "consistency_rampup", "num_workers", "log_images", "seed",
                     "state_interval"):  # fmt: skip
            if not 0 <= getattr(self, name) < math.inf:
                faults.append(f"--{name} must be 0 or more, it is {getattr(self, name)}")
        for name in ("base_lr", "DAN_lr", "max_time"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                faults.append(f"--{name} must be positive, it is {getattr(self, name)}")
        for name in ("ema_decay", "uncertainty_quantile"):
            if not 0 <= getattr(self, name) <= 1:
                faults.append(f"--{name} must lie between 0 and 1, it is {getattr(self, name)}")
        if not 2 <= self.num_classes <= 255:
            faults.append(f"--num_classes must lie between 2 and 255 (background included), it is {self.num_classes}")
        if self.binary_label and self.num_classes != 2:
            faults.append(f"--binary_label leaves 2 classes, --num_classes is {self.num_classes}")
        if self.batch_size <= self.labeled_bs:
            faults.append(
                f"--batch_size {self.batch_size} leaves no unlabelled item beside --labeled_bs {self.labeled_bs}; "
                "it must be larger"
            )
        if self.model == "unet_3D_sdf" and self.backbone != "dtc":
            faults.append(f"--model unet_3D_sdf is trained by --backbone dtc, not by {self.backbone}")
        if not self.registration:
            for flag, needs in (("--refinement fusion", self.refinement == "fusion"),
                                ("--augmentation template", "template" in self.augmentation)):  # fmt: skip
                if needs:
                    faults.append(f"{flag} works by registration; leave --registration on")
        if self.resume and self.overwrite:
            faults.append("--resume goes on with a run and --overwrite deletes it; use one of the two")
        _raise(faults)

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.root_path, self.image_key, self.binary_label)


@dataclass(frozen=True)
class TrainedConfig:
    """What every command that uses a trained model can be told; None stands for what the run was trained with."""

    exp: str | None = option(None, "a folder below model/, or the experiment name that training was given")
    backbone: str | None = option(
        None, "which run of the experiment, where several backbones were trained", choices=tuple(METHODS)
    )
    model: str | None = option(None, "network (default: what was trained, else unet_3D)", choices=tuple(NETWORKS))
    num_classes: int | None = option(None, "background included (default: as trained, else 2)", type=int)
    patch_size: tuple[int, int, int] | None = option(None, "voxels (default: as trained, else 128 128 128)", **THREE)
    stride_xy: int | None = option(
        None, "voxels between windows in the first two axes (default: 64; at most the patch)", type=int
    )
    stride_z: int | None = option(None, "the same in the third axis (default: 64)", type=int)
    ckpt: str | None = option(None, "checkpoint file in the run folder (default: {model}_best_model.pth)")
    labeled_num: int | None = option(None, "tests model/{exp}_{labeled_num} or that run of the experiment", type=int)
    image_key: str | None = option(None, "HDF5 dataset that holds the image (default: as trained, else image)")
    binary_label: bool | None = option(None, "merge all labels above 0 into class 1", **SWITCH)
    largest_component: bool | None = option(
        None, "keep the largest connected part of each class only (default: as trained, else off)", **SWITCH
    )
    device: str = option("auto", "auto: cuda where present, else cpu", choices=("auto", "cuda", "cpu"))
    precision: str = option(
        "auto",
        "auto: bf16 where the device computes it natively, else fp32",
        choices=("auto", "fp32", "bf16"),
    )
    debug: bool = option(False, "show tracebacks", **SWITCH)

    def resolve(self: Config, trained: dict[str, Any]) -> Config:
        """Fill what was left open from the arguments of the training run (may be empty), else the defaults.

        Raises:
            InputError: if the result makes no sense.
        """
        defaults = {
            "model": "unet_3D", "num_classes": 2, "patch_size": (128, 128, 128), "image_key": "image",
            "binary_label": False, "largest_component": False,
        }  # fmt: skip
        values = {}
        for name, default in defaults.items():
            value = getattr(self, name)
            values[name] = trained.get(name, default) if value is None else value
        try:
            patch = values["patch_size"] = tuple(map(int, values["patch_size"]))
            values["num_classes"] = int(values["num_classes"])
        except (TypeError, ValueError):
            raise InputError(
                "args.json of the run states no usable patch_size and num_classes; give --patch_size and --num_classes"
            ) from None
        faults = _patch_faults(patch)
        if values["num_classes"] < 2:
            faults.append(f"--num_classes must be at least 2, it is {values['num_classes']}")
        for name, limit in (("stride_xy", min(patch[:2])), ("stride_z", patch[2])):
            stride = getattr(self, name)
            values[name] = min(64 if stride is None else stride, limit)
            if values[name] < 1 <= limit:
                faults.append(f"--{name} must be at least 1, it is {stride}")
        _raise(faults)
        return dataclasses.replace(self, **values)


@dataclass(frozen=True)
class TestConfig(TrainedConfig):
    """Everything that ``test_baseline.py`` can be told."""

    __test__ = False  # not a test case, whatever its name looks like to pytest

    root_path: Path = option(None, "the dataset folder", type=Path, required=True)
    exp: str = option(None, "a folder below model/, or the experiment name that training was given", required=True)
    test_list: str = option("test.txt", "list of the volumes to test, in the dataset folder")
    truth: Path | None = option(
        None, "dataset folder with the same scans on their original grid: predictions are brought back to it and "
        "compared with its labels", type=Path, metavar="DIR",
    )  # fmt: skip
    save_pred: Path | None = option(
        None, "folder for predictions, images and labels as NIfTI", type=Path, metavar="DIR"
    )
    overwrite: bool = option(False, "replace files in the folder of --save_pred", **SWITCH)

    def __post_init__(self) -> None:
        _set(self, root_path=Path(self.root_path).expanduser().resolve(), exp=str(Path(self.exp)))

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.root_path, self.image_key or "image", bool(self.binary_label))


@dataclass(frozen=True)
class PredictConfig(TrainedConfig):
    """Everything that ``predict.py`` can be told."""

    scans: tuple[Path, ...] = option(
        (), "image files, folders of them, or folders with a DICOM series", type=Path, nargs="+", metavar="PATH"
    )
    cohort: bool = option(False, "export the last round's labels of the run's own unlabelled scans instead", **SWITCH)
    out: Path = option(None, "folder for the label maps", type=Path, required=True, metavar="DIR")
    probabilities: bool = option(False, "also write the probability of every foreground class", **SWITCH)
    uncertainty: bool = option(False, "also write the entropy of the class probabilities, in nats", **SWITCH)
    preparation: Path | None = option(
        None, "preparation.json of the training data (default: as the run knows it)", type=Path, metavar="FILE"
    )
    root_path: Path | None = option(
        None, "with --cohort: the dataset folder, where it was moved since", type=Path, metavar="DIR"
    )
    overwrite: bool = option(False, "replace files that are there", **SWITCH)

    def __post_init__(self) -> None:
        _set(self, scans=tuple(Path(path).expanduser() for path in self.scans), out=Path(self.out).expanduser())
        if self.ckpt is not None and (self.exp is None or Path(self.ckpt).is_file()):
            _set(self, ckpt=str(Path(self.ckpt).expanduser().resolve()))
        faults = []
        if self.exp is None and self.ckpt is None:
            faults.append("--exp is missing; name the experiment, or a checkpoint with --ckpt")
        if self.cohort == bool(self.scans):
            faults.append("give either --scans (files or folders to segment) or --cohort (the run's own scans)")
        if self.cohort and (self.probabilities or self.uncertainty):
            faults.append(
                "--cohort exports labels, which are all that a run keeps of its scans; for --probabilities and "
                "--uncertainty give the scans with --scans"
            )
        _raise(faults)


def parse(config: type[Config], argv: Sequence[str] | None, description: str) -> Config:
    """Read a command line into a configuration.

    Raises:
        InputError: if values contradict each other; argparse itself exits with 2 on what it cannot read.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for item in dataclasses.fields(config):
        keywords = dict(item.metadata)
        if item.default is None or keywords.get("required"):
            keywords.setdefault("default", argparse.SUPPRESS)  # the help text says what stands in for it
        parser.add_argument(f"--{item.name}", **{"default": item.default, **keywords})
    recipe = getattr(parser.parse_known_args(argv)[0], "recipe", "published")
    parser.set_defaults(**RECIPES[recipe])
    return config(**vars(parser.parse_args(argv)))


def find_checkpoint(path: Path) -> Path:
    """Look a relative path up from the working directory, then from the project's root."""
    path = Path(path).expanduser()
    return path.resolve() if path.is_absolute() or path.exists() else PROJECT_ROOT / path


def _patch_faults(patch: Sequence[int]) -> list[str]:
    sides = " ".join(map(str, patch))
    if len(patch) != 3 or not all(side > 0 and side % 16 == 0 for side in patch):
        return [f"--patch_size must be positive and divisible by 16 on every axis, it is {sides}"]
    if max(patch) == 16:
        return [f"--patch_size {sides} leaves one voxel at the bottom of the network; one axis must have 32 or more"]
    return []


def _set(config: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(config, name, value)


def _raise(faults: list[str]) -> None:
    if faults:
        raise InputError("; ".join(faults))
