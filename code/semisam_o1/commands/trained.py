"""A trained model as testing and prediction use it: found, configured as it was trained, and loaded on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch

from semisam_o1.commands.correcting import ScanCorrection, load_correction
from semisam_o1.core import distributed
from semisam_o1.core.device import PRECISIONS, resolve_precision
from semisam_o1.core.errors import InputError, raise_faults
from semisam_o1.core.flags import AT_LEAST_1, ZOOM, Config, DeviceConfig, Range, option
from semisam_o1.core.memory import configure_allocator
from semisam_o1.data.dataset.volumes import Volume
from semisam_o1.evaluation.sliding_window import Predictor
from semisam_o1.methods import METHODS, MethodOptions
from semisam_o1.networks import NETWORKS, build_network
from semisam_o1.pipeline.config import TrainConfig, image_key_faults, level_faults
from semisam_o1.refinement.pseudo_labels import largest_components
from semisam_o1.refinement.quality import expected_dice
from semisam_o1.runs.best import best_round, record_of
from semisam_o1.runs.find import TrainedModel, find_trained
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, describe_bias
from semisam_o1.runs.results import stated_names
from semisam_o1.training.checkpoint import load_weights

# Flags that keep the value of the training run, or the default of training where that is not known.
OF_NETWORK, OF_LABELS = ("model", "num_classes", "patch_size", "network_levels"), ("binary_label", "largest_component")
AS_TRAINED = (*OF_NETWORK, *OF_LABELS, "image_key", "zooms")
STRIDE = 64  # voxels between windows, as published
UNKNOWN = {name: getattr(TrainConfig, name) for name in AS_TRAINED} | {"num_classes": MethodOptions.num_classes}


@dataclass(frozen=True, kw_only=True)
class TrainedConfig(DeviceConfig):
    """Flags of every command that uses a trained model; None stands for the value in training."""

    exp: str | None = option(
        None, "a folder below model/, the experiment name that training was given, or a file that export.py wrote"
    )
    backbone: str | None = option(None, "which run, where several backbones were trained", choices=tuple(METHODS))
    model: str | None = option(None, "network (default: as trained, else unet_3D)", choices=tuple(NETWORKS))
    num_classes: int | None = option(None, "classes with background (default: as trained, else 2)", Range(2, 255))
    patch_size: tuple[int, int, int] | None = option(None, "voxels (default: as trained, else 128 128 128)")
    network_levels: str | None = option(None, "the network's kernels and strides (default: as trained, else isotropic)")
    stride_xy: int | None = option(
        None, "voxels between windows along x and y (default: 64; after --recipe best, as in validation)", AT_LEAST_1
    )
    stride_z: int | None = option(None, "the same along z", AT_LEAST_1)
    ckpt: str | None = option(None, "checkpoint file in the run folder (default: {model}_best_model.pth)")
    labeled_num: int | None = option(None, "selects model/{exp}_{labeled_num} or that run of the experiment")
    image_key: str | None = option(None, "HDF5 dataset that holds the image (default: as trained, else image)")
    binary_label: bool | None = option(None, "merge all labels above 0 into class 1 (default: as trained, else off)")
    largest_component: bool | None = option(None, "keep the largest component of each class (default: as trained)")
    zooms: tuple[float, ...] | None = option(
        None,
        "sizes, relative to its own, that a scan is predicted at; their mean counts (default: as trained, else 1)",
        ZOOM,
        metavar="ZOOM",
    )
    correction: bool | None = option(
        None,
        "correct predictions by the labels of registered scans of the run's cohort (default: after --refinement "
        "fusion, where they are at hand and have not plainly lowered the Dice of validation scans)",
    )
    precision: str = option(
        "auto", "auto: bf16 where the device computes it natively, else fp32; fp16: for older GPUs", choices=PRECISIONS
    )

    def faults(self) -> list[str]:
        return image_key_faults(self.image_key)

    def find(self, file: str | None) -> TrainedModel:
        """Return the run that the flags name, by a file in its folder; raises InputError if there is none."""
        return find_trained(self.exp or "", self.model, file, self.backbone, self.labeled_num)

    def resolve(self: Config, trained: Mapping[str, Any]) -> Config:
        """Complete the open values from the arguments of the training run, which may be empty.

        Raises:
            InputError: if a resulting value cannot be used.
        """
        values = {name: getattr(self, name) for name in AS_TRAINED}
        for name in (name for name, value in values.items() if value is None):
            values[name] = trained.get(name, UNKNOWN[name])
        validated = trained.get("val_stride", STRIDE) if trained.get("recipe") == "best" else STRIDE
        try:
            values["num_classes"] = int(values["num_classes"])
            *sides_xy, side_z = values["patch_size"] = tuple(map(int, values["patch_size"]))
            stride_xy, stride_z = (int(validated) if n is None else n for n in (self.stride_xy, self.stride_z))
            strides = {"stride_xy": min(stride_xy, *sides_xy), "stride_z": min(stride_z, side_z)}
        except (TypeError, ValueError):
            raise InputError(
                "args.json of the run states no usable patch_size and num_classes; give --patch_size and --num_classes"
            ) from None
        values["zooms"] = tuple(values["zooms"])
        raise_faults(level_faults(values["network_levels"], values["patch_size"]), "arguments cannot be used")
        return dataclasses.replace(self, **values, **strides)


@dataclass(frozen=True)
class Calibration:
    """What a run found out about a network of it; None where it did not.

    Attributes:
        bias: of each class, on the log-probabilities.
        reliability: of each foreground class, Dice over that expected by the network's probabilities.
        corrected_reliability: the same for the Dice of corrected predictions.
    """

    bias: tuple[float, ...] | None = None
    reliability: tuple[float, ...] | None = None
    corrected_reliability: tuple[float, ...] | None = None

    @classmethod
    def of(cls, trained: TrainedModel, num_classes: int) -> Calibration:
        """Return what is known of a checkpoint: by the records of its run or, packed in a file, by its description.

        Raises:
            InputError: if it states something else.
        """
        foreground = num_classes - 1
        sizes = {"decision_bias": num_classes, "reliability": foreground, "corrected_reliability": foreground}
        if trained.record is not None:
            packed = trained.packed or {}
            return cls(*(_numbers(packed, key, size, trained.described_in) for key, size in sizes.items()))
        folder = RunFolder(trained.folder, trained.model)
        record = record_of(folder, trained.checkpoint)
        stated = vars(record) if record else {}
        return cls(*(_numbers(stated, key, size, str(folder.path)) for key, size in sizes.items()))


def _numbers(content: Mapping[str, Any], key: str, count: int, source: str) -> tuple[float, ...] | None:
    """Return the numbers that a model states under a key; InputError if they are others than expected."""
    values = content.get(key)
    if values is None:
        return None
    sound = isinstance(values, (list, tuple)) and all(isinstance(value, (int, float)) for value in values)
    if not sound or len(values) != count or not np.isfinite(values).all():
        raise InputError(f"{source}: {key} must be {count} numbers; get it again")
    return tuple(map(float, values))


@dataclass(frozen=True)
class LoadedModel(Generic[Config]):
    """A trained network, ready to predict."""

    trained: TrainedModel
    config: Config  # of the command, completed from the arguments of the training
    predictor: Predictor
    reliability: tuple[float, ...] | None = None  # of its predictions, see ``Calibration``
    correction: ScanCorrection | None = None  # of its predictions

    def __str__(self) -> str:
        """Return the settings of inference as the commands print them."""
        config, predictor = self.config, self.predictor
        zooms = "" if len(predictor.zooms) == 1 else f", mean at zooms {' '.join(map(str, predictor.zooms))}"
        shift = "" if predictor.bias is None else f", decision shifted by {describe_bias(predictor.bias)}"
        return (
            f"{config.num_classes} classes, patch {config.patch_size}, stride {config.stride_xy} {config.stride_z}, "
            f"{predictor.precision} on {predictor.device.type}{zooms}{shift}"
            f"{', corrected by the labels of the cohort' if self.correction else ''}"
        )

    @property
    def class_names(self) -> dict[int, str]:
        """Names of the foreground classes, of those that the training data state a name of."""
        merged = {"binary_label": self.config.binary_label, "num_classes": self.config.num_classes}
        return stated_names(self.trained.preparation, merged)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Return the network's class probabilities (C, W, H, D) float32 of an image (W, H, D)."""
        return self.predictor(torch.from_numpy(image)).cpu().numpy()

    def predict(self, volume: Volume) -> tuple[np.ndarray, tuple[float, ...]]:
        """Return class probabilities and expected Dice of a volume on the network's grid, corrected where they can be.

        Returns:
            (C, W, H, D) float32, and the Dice that is expected of every foreground class.
        """
        probabilities = self.probabilities(volume.image)
        return self.corrected(volume, probabilities), self.expected_dice(probabilities)

    def corrected(self, volume: Volume, probabilities: np.ndarray) -> np.ndarray:
        """Return class probabilities (C, W, H, D) of a volume, corrected where they can be."""
        return probabilities if self.correction is None else self.correction(volume, probabilities)

    def expected_dice(self, probabilities: np.ndarray) -> tuple[float, ...]:
        """Return the Dice that is expected of every foreground class, from the network's probabilities (C, W, H, D)."""
        expected = np.array(expected_dice(probabilities, probabilities))
        reliability = self.reliability or (1.0,) * len(expected)
        return tuple(np.minimum(expected * reliability, 1.0).tolist())

    def label_map(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the label map (W, H, D) uint8 of class probabilities (C, W, H, D)."""
        label = probabilities.argmax(axis=0).astype(np.uint8)
        return largest_components(label, self.config.num_classes) if self.config.largest_component else label


def load_model(config: Config, device: torch.device) -> LoadedModel[Config]:
    """Find the checkpoint that the flags name and load it.

    Raises:
        InputError: if there is no such checkpoint, or it does not fit the network.
    """
    configure_allocator(device.type)
    trained = config.find(config.ckpt)
    if config.exp and config.ckpt and Path(config.ckpt).is_absolute() and distributed.is_main():
        print(f"--ckpt {trained.checkpoint} is used as it is; --exp {config.exp} chooses nothing beside it")
    config = config.resolve({**trained.arguments, "model": trained.model})
    network = build_network(config.model, config.num_classes, levels=config.network_levels)
    load_weights(network, trained.checkpoint, trained.record)
    stride = (config.stride_xy, config.stride_xy, config.stride_z)
    precision = resolve_precision(config.precision, device.type)
    known = Calibration.of(trained, config.num_classes)
    predictor = Predictor(network.to(device), config.patch_size, stride, precision, known.bias, config.zooms)
    record = record_of(RunFolder(trained.folder, trained.model), trained.checkpoint) if trained.record is None else None
    correction = load_correction(trained, record, config.correction, device)
    reliability = (correction and known.corrected_reliability) or known.reliability
    return LoadedModel(trained, config, predictor, reliability, correction)


def describe_best(records: Sequence[RoundRecord]) -> str:
    """Return the round whose network is the run's best model, and how it scored, from the records of all rounds."""
    best = best_round(records)
    if not best.trained:
        return "round 0, no round of training is finished yet"
    how = "the last one that was accepted, without validation labels"
    if best.validation_dice is not None:
        how = f"best validation Dice {best.validation_dice:.3f}"
    return f"round {best.round} of {records[-1].round}, {how}"
