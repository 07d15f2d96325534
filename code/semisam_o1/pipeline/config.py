"""The settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from semisam_o1 import PROJECT_ROOT
from semisam_o1.core.flags import SWITCH, THREE, assign, fail, option, patch_faults
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.sampling.augmentation import KINDS as AUGMENTATIONS
from semisam_o1.data.sampling.batches import ORIENTATIONS
from semisam_o1.features.extract import FEATURE_SETS
from semisam_o1.methods import METHODS
from semisam_o1.networks import NETWORKS

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


@dataclass(frozen=True)
class TrainConfig:
    """Everything that ``train_SemiSAM_O1.py`` can be told."""

    recipes: ClassVar[dict[str, dict[str, Any]]] = RECIPES

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
        assign(
            self,
            root_path=Path(self.root_path).expanduser().resolve(),
            exp=str(Path(self.exp)),
            patch_size=tuple(self.patch_size),
            augmentation=tuple(self.augmentation),
            sam_ckpt=find_checkpoint(self.sam_ckpt),
        )
        if self.backbone == "dtc":
            assign(self, model=METHODS["dtc"].network)
        if self.features is None:
            builtin = self.propagation == "atlas" and not self.sam_ckpt.is_file()
            assign(self, features="builtin" if builtin else "sam")
        self._check()

    def _check(self) -> None:
        faults = patch_faults(self.patch_size)
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
        fail(faults)

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.root_path, self.image_key, self.binary_label)


def find_checkpoint(path: Path) -> Path:
    """Look a relative path up from the working directory, then from the project's root."""
    path = Path(path).expanduser()
    return path.resolve() if path.is_absolute() or path.exists() else PROJECT_ROOT / path
