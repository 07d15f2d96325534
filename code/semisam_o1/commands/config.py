"""The settings of the commands that use a trained model: testing and prediction."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semisam_o1.core.errors import InputError
from semisam_o1.core.flags import Config, assign, check_ranges, option, patch_faults
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.methods import METHODS
from semisam_o1.networks import NETWORKS


@dataclass(frozen=True, kw_only=True)
class TrainedConfig:
    """What every command that uses a trained model can be told; None stands for what the run was trained with."""

    exp: str | None = option(None, "a folder below model/, or the experiment name that training was given")
    backbone: str | None = option(
        None, "which run of the experiment, where several backbones were trained", choices=tuple(METHODS)
    )
    model: str | None = option(None, "network (default: what was trained, else unet_3D)", choices=tuple(NETWORKS))
    num_classes: int | None = option(None, "background included (default: as trained, else 2)")
    patch_size: tuple[int, int, int] | None = option(None, "voxels (default: as trained, else 128 128 128)")
    stride_xy: int | None = option(
        None, "voxels between windows in the first two axes (default: 64; at most the patch)"
    )
    stride_z: int | None = option(None, "the same in the third axis (default: 64)")
    ckpt: str | None = option(None, "checkpoint file in the run folder (default: {model}_best_model.pth)")
    labeled_num: int | None = option(None, "tests model/{exp}_{labeled_num} or that run of the experiment")
    image_key: str | None = option(None, "HDF5 dataset that holds the image (default: as trained, else image)")
    binary_label: bool | None = option(None, "merge all labels above 0 into class 1")
    largest_component: bool | None = option(
        None, "keep the largest connected part of each class only (default: as trained, else off)"
    )
    device: str = option("auto", "auto: cuda where present, else cpu", choices=("auto", "cuda", "cpu"))
    precision: str = option(
        "auto", "auto: bf16 where the device computes it natively, else fp32", choices=("auto", "fp32", "bf16")
    )
    debug: bool = option(False, "show tracebacks")

    def resolve(self: Config, trained: dict[str, Any]) -> Config:
        """Fill what was left open from the arguments of the training run (may be empty), else the defaults.

        Raises:
            InputError: if the result makes no sense.
        """
        defaults = {
            "model": "unet_3D",
            "num_classes": 2,
            "patch_size": (128, 128, 128),
            "image_key": "image",
            "binary_label": False,
            "largest_component": False,
        }
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
        faults = patch_faults(patch)
        if values["num_classes"] < 2:
            faults.append(f"--num_classes must be at least 2, it is {values['num_classes']}")
        for name, limit in (("stride_xy", min(patch[:2])), ("stride_z", patch[2])):
            stride = getattr(self, name)
            values[name] = min(64 if stride is None else stride, limit)
            if values[name] < 1 <= limit:
                faults.append(f"--{name} must be at least 1, it is {stride}")
        check_ranges(self, faults)
        return dataclasses.replace(self, **values)


@dataclass(frozen=True, kw_only=True)
class TestConfig(TrainedConfig):
    """Everything that ``test_baseline.py`` can be told."""

    __test__ = False  # not a test case, whatever its name looks like to pytest

    root_path: Path = option(None, "the dataset folder", required=True)
    exp: str = option(None, "a folder below model/, or the experiment name that training was given", required=True)
    test_list: str = option("test.txt", "list of the volumes to test, in the dataset folder")
    truth: Path | None = option(
        None,
        "dataset folder with the same scans on their original grid: predictions are brought back to it and "
        "compared with its labels",
        metavar="DIR",
    )
    save_pred: Path | None = option(None, "folder for predictions, images and labels as NIfTI", metavar="DIR")
    overwrite: bool = option(False, "replace files in the folder of --save_pred")

    def __post_init__(self) -> None:
        assign(self, root_path=Path(self.root_path).expanduser().resolve(), exp=str(Path(self.exp)))

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.root_path, self.image_key or "image", bool(self.binary_label))


@dataclass(frozen=True, kw_only=True)
class PredictConfig(TrainedConfig):
    """Everything that ``predict.py`` can be told."""

    scans: tuple[Path, ...] = option(
        (), "image files, folders of them, or folders with a DICOM series", nargs="+", metavar="PATH"
    )
    cohort: bool = option(False, "export the last round's labels of the run's own unlabeled scans instead")
    out: Path = option(None, "folder for the label maps", required=True, metavar="DIR")
    probabilities: bool = option(False, "also write the probability of every foreground class")
    uncertainty: bool = option(False, "also write the entropy of the class probabilities, in nats")
    preparation: Path | None = option(
        None, "preparation.json of the training data (default: as the run knows it)", metavar="FILE"
    )
    root_path: Path | None = option(None, "with --cohort: the dataset folder, where it was moved since", metavar="DIR")
    overwrite: bool = option(False, "replace files that are there")

    def __post_init__(self) -> None:
        assign(self, scans=tuple(Path(path).expanduser() for path in self.scans), out=Path(self.out).expanduser())
        if self.ckpt is not None and (self.exp is None or Path(self.ckpt).is_file()):
            assign(self, ckpt=str(Path(self.ckpt).expanduser().resolve()))
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
        check_ranges(self, faults)
