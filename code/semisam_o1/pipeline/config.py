"""Configuration of a training run."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from semisam_o1 import PROJECT_ROOT
from semisam_o1.core.device import PRECISIONS
from semisam_o1.core.errors import InputError
from semisam_o1.core.flags import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    SHARE,
    ZOOM,
    DeviceConfig,
    Range,
    assign,
    option,
    patch_faults,
    with_recipes,
)
from semisam_o1.data.dataset.geometry import Geometry
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preparation.settings import read_classes
from semisam_o1.data.sampling.augmentation import KINDS as AUGMENTATIONS
from semisam_o1.data.sampling.patches import ORIENTATIONS
from semisam_o1.features.extract import FEATURE_SETS
from semisam_o1.methods import METHODS, MethodOptions
from semisam_o1.methods.dan import SHORTEST_SIDE
from semisam_o1.networks import NETWORKS, build_network, takes_levels
from semisam_o1.networks.levels import ISOTROPIC, activations, choose_levels, divisors
from semisam_o1.networks.unet3d import UNet3D
from semisam_o1.propagation import PROPAGATIONS
from semisam_o1.training.trainer import TrainingOptions

RECIPES: dict[str, dict[str, Any]] = {
    "published": {},
    "best": {
        "backbone": "mt",
        "propagation": "atlas",
        "refinement": "fusion",
        "confidence_weights": True,
        "base_lr": 0.1,
        "ema_decay": 0.95,
        "foreground": 0.5,
        "use_teacher": True,
        "warm_start": True,
        "calibrate": True,
        "guard": True,
        "augmentation": ("spatial", "intensity", "template"),
        "orientations": "none",
        "network_levels": "auto",
        "largest_component": True,
        "zooms": (0.85, 1.0, 1.15),
    },
}


@with_recipes(RECIPES)
@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainingOptions, DeviceConfig):
    """Configuration of ``train_SemiSAM_O1.py``; ``given`` names the fields that were given, before recipe and plan."""

    given: ClassVar[frozenset[str]]

    recipe: str = option("published", "defaults of the other flags; best: those that scored highest", choices=RECIPES)
    root_path: Path = option(PROJECT_ROOT / "data" / "LA", "dataset folder", resume="any")
    exp: str = option("SemiSAM_O1/LA", "name of the experiment, a folder below model/", resume="any")
    backbone: str = option("uamt", "semi-supervised method", choices=METHODS)
    model: str = option("unet_3D", "network (dtc always uses unet_3D_sdf)", choices=NETWORKS)
    labeled_num: int = option(1, "number of labeled volumes, the first names of train.txt", within=AT_LEAST_1)
    labeled_bs: int = option(1, "labeled items per batch", within=AT_LEAST_1)
    batch_size: int = option(2, "items per batch, over all processes")
    num_classes: int | None = option(
        None, "classes, background included (default: as the dataset says, else 2)", within=Range(2, 255)
    )
    patch_size: tuple[int, int, int] = option((128, 128, 128), "patch size in voxels, each divisible by 16")
    network_levels: str = option(
        ISOTROPIC,
        "kernels and strides of the network; isotropic: 3³ and 2³; auto: as patch and voxel size suggest, so that "
        "short axes are halved less often; or those of four levels, such as '331/221 333/222 333/221 333/221'",
    )
    warm_start: bool = option(False, "start each round from the best network of the previous round")
    knn_k: int = option(5, "number of nearest neighbors, in the atlas and in refinement", within=AT_LEAST_1)
    uncertainty_quantile: float = option(0.9, "quantile of uncertainty from which volumes are uncertain", within=SHARE)
    registration: bool = option(True, "atlas: fuse the labels of registered neighbors; off: no deformable registration")
    refinement: str = option(
        "knn",
        "refinement of pseudo-labels between rounds; knn: a vote on whole uncertain volumes; fusion: by region, with "
        "the labels of registered neighbors and of the template",
        choices=("knn", "fusion"),
    )
    confidence_weights: bool = option(False, "weight each voxel of a pseudo-label by its probability")
    guard: bool = option(False, "with fusion: replace a label only by one that is judged better")
    calibrate: bool = option(
        False,
        "shift the decision between classes by at least three validation labels, unless it costs on those left out",
    )
    augmentation: tuple[str, ...] = option(
        (),
        "random changes to patches; template: warps to the shapes of other scans; local: structures grow and shrink",
        nargs="*",
        choices=AUGMENTATIONS,
    )
    largest_component: bool = option(False, "keep only the largest connected component of each class")
    zooms: tuple[float, ...] = option(
        (1.0,),
        "sizes, relative to its own, that a volume is predicted at when it is relabeled or tested; their mean counts",
        ZOOM,
        metavar="ZOOM",
    )
    sam_ckpt: Path = option(Path("pretrained_ckpt/sam_med3d_turbo.pth"), "SAM-Med3D-turbo checkpoint", resume="any")
    propagation: str = option("prototype", "method of round 0: prototype, or atlas", choices=PROPAGATIONS)
    features: str | None = option(
        None,
        "features for prototypes and neighbors (default: sam; builtin for the atlas if the checkpoint is missing)",
        choices=FEATURE_SETS,
    )
    image_key: str = option("image", "HDF5 dataset that holds the image")
    binary_label: bool = option(False, "merge all labels above 0 into class 1")
    orientations: str = option("all", "orientations of patches in the first two axes; all: eight", choices=ORIENTATIONS)
    foreground: float = option(0.0, "share of patches centered on foreground, each class equally often", within=SHARE)
    seed: int = option(1337, "random seed", within=AT_LEAST_0)
    deterministic: int = option(1, "1: the same bits every time; 0: the fastest algorithms of cuDNN", choices=(0, 1))
    precision: str = option(
        "auto",
        "auto: bf16 where the device computes it natively, else fp32; fp16, with scaled gradients: for older GPUs",
        resume="any",
        choices=PRECISIONS,
    )
    cache: str = option(
        "auto", "where decoded volumes are; auto: by size", resume="any", choices=("auto", "gpu", "ram", "none")
    )
    num_workers: int = option(0, "processes that read patches, with --cache none", within=AT_LEAST_0, resume="any")
    val_stride: int = option(96, "voxels between windows in validation and relabeling, at most the patch", AT_LEAST_1)
    labels_for_diagnosis: bool = option(
        True, "score the pseudo-labels of unlabeled volumes that have a label (never used to train)", resume="any"
    )
    prompt: str | None = option(
        None, "of the original command lines; has no effect here", resume="any", nargs="?", const=""
    )
    hours: float | None = option(
        None,
        "plan a run of so many hours (with recipe best: 1 on a CPU, the published length on a GPU)",
        POSITIVE,
        resume="any",
    )
    max_time: float | None = option(None, "hours after which the run saves its state and stops", POSITIVE, resume="any")
    check_only: bool = option(False, "check arguments, data and checkpoint, then exit", resume="any")
    resume: bool = option(False, "continue from the newest state in the run folder", resume="any")
    overwrite: bool = option(False, "delete the content of the run folder and start a new run", resume="any")

    def __post_init__(self) -> None:
        assign(
            self,
            root_path=Path(self.root_path).expanduser().resolve(),
            exp=str(Path(self.exp)),
            patch_size=tuple(self.patch_size),
            augmentation=tuple(self.augmentation),
            zooms=tuple(self.zooms),
            sam_ckpt=find_checkpoint(self.sam_ckpt),
        )
        if self.num_classes is None:
            known = 2 if self.binary_label else read_classes(self.root_path).count
            assign(self, num_classes=known or MethodOptions.num_classes)
        if self.backbone == "dtc":
            assign(self, model=METHODS["dtc"].network)
        if self.features is None:
            builtin = self.propagation == "atlas" and not self.sam_ckpt.is_file()
            assign(self, features="builtin" if builtin else "sam")
        if self.network_levels == "auto":
            levels = choose_levels(self.patch_size, self._spacing()) if self.adapts else ISOTROPIC
            # A plan that chooses another patch chooses these, too.
            assign(self, network_levels=levels, given=self.given - {"network_levels"})
        super().__post_init__()

    def _spacing(self) -> tuple[float, float, float]:
        """Return the voxel size of the first scan in mm, 1 mm where no such file can be read."""
        with contextlib.suppress(InputError):
            return self.dataset.header(self.dataset.names("train.txt")[0]).grid.geometry.spacing
        return Geometry.spacing

    def faults(self) -> list[str]:
        faults = level_faults(self.network_levels, self.patch_size)
        if not Path(self.exp).name or ".." in Path(self.exp).parts:
            faults.append(f"--exp must name a folder below model/, or an absolute path, it is {self.exp!r}")
        faults += image_key_faults(self.image_key)
        if self.binary_label and self.num_classes != 2:
            faults.append(f"--binary_label leaves 2 classes, --num_classes is {self.num_classes}")
        if self.batch_size <= self.labeled_bs:
            given = f"--batch_size {self.batch_size} leaves no unlabeled item beside --labeled_bs {self.labeled_bs}"
            faults.append(f"{given}; it must be larger")
        if self.backbone == "dan" and min(self.patch_size) < SHORTEST_SIDE:
            faults.append(f"--backbone dan needs {SHORTEST_SIDE} voxels or more on every axis of --patch_size")
        if self.model == "unet_3D_sdf" and self.backbone != "dtc":
            faults.append(f"--model unet_3D_sdf is trained by --backbone dtc, not by {self.backbone}")
        if self.refinement == "fusion" and not self.registration:
            faults.append("--refinement fusion needs registration; leave --registration on")
        if "template" in self.augmentation and not self.registration:
            faults.append("--augmentation template needs registration; leave --registration on")
        if self.resume and self.overwrite:
            faults.append("--resume continues a run and --overwrite deletes it; use one of the two")
        return faults

    @property
    def adapts(self) -> bool:
        """Whether kernels and strides of the network may depend on the patch; dan's discriminator halves every axis."""
        return takes_levels(self.model) and self.backbone != "dan"

    @property
    def activations(self) -> float:
        """What the network holds per voxel, relative to the isotropic one: short axes are halved less often."""
        return activations(self.network_levels)

    def new_network(self, generator: torch.Generator | None = None) -> UNet3D:
        """Return the network that is trained, with fresh weights."""
        return build_network(self.model, self.num_classes, generator=generator, levels=self.network_levels)

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.root_path, self.image_key, self.binary_label)


def level_faults(levels: str, patch: Sequence[int]) -> list[str]:
    """Return what is wrong with the levels of a network, or with the size of its patches."""
    try:
        return patch_faults(patch, divisors(levels))
    except ValueError as error:
        return [f"--network_levels: {error}"]


def image_key_faults(key: str | None) -> list[str]:
    """Return what is wrong with the HDF5 key of the image."""
    if key is not None and key.strip("/") == "label":
        return ["--image_key label names the masks; name the dataset that holds the image"]
    return []


def find_checkpoint(path: Path) -> Path:
    """Resolve a relative path from the working directory, else from the project's root."""
    path = Path(path).expanduser()
    return path.resolve() if path.is_absolute() or path.exists() else PROJECT_ROOT / path
