"""Label maps for scans in their own grid, orientation and format: new scans, or the run's own cohort."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch

from semisam_o1.commands.config import PredictConfig
from semisam_o1.commands.export import export_path, write_image
from semisam_o1.core.device import resolve_device, resolve_precision
from semisam_o1.core.errors import InputError, listed
from semisam_o1.core.memory import configure_allocator
from semisam_o1.core.progress import progress
from semisam_o1.data.dataset.volumes import Dataset, Volume
from semisam_o1.data.preparation.formats import SUFFIXES, is_dicom_folder, stem
from semisam_o1.data.preparation.grid import resample, resample_label
from semisam_o1.data.preparation.scans import header_faults, read_and_prepare
from semisam_o1.data.preparation.settings import Preparation, read_preparation
from semisam_o1.data.preparation.sources import ScanFiles, find_folder
from semisam_o1.evaluation.predictor import Predictor
from semisam_o1.networks import build_network
from semisam_o1.refinement.components import largest_components
from semisam_o1.runs.find import TrainedModel, find_trained, last_labels
from semisam_o1.training.checkpoint import load_weights


def predict(config: PredictConfig) -> list[Path]:
    """Segment scans with a trained model, or export the labels of a run's cohort; return the label maps written.

    Raises:
        InputError: if the checkpoint or a scan cannot be used; nothing was written then.
    """
    trained = find_trained(config.exp or "", config.model, config.ckpt, config.backbone, config.labeled_num)
    return export_cohort(config, trained) if config.cohort else predict_scans(config, trained)


def predict_scans(config: PredictConfig, trained: TrainedModel) -> list[Path]:
    """Segment files and folders of scans."""
    config = config.resolve({**trained.arguments, "model": trained.model})
    device = torch.device(resolve_device(config.device))
    configure_allocator(device.type)
    precision = resolve_precision(config.precision, device.type)
    settings, whence = find_settings(config, trained)
    scans = find_scans(config.scans)
    faults = [fault for scan in scans for fault in header_faults(scan, settings.channel)]
    if faults:
        raise InputError("\n  ".join([f"{len(faults)} scans cannot be used:", *faults]) if faults[1:] else faults[0])
    network = build_network(config.model, config.num_classes)
    load_weights(network, trained.checkpoint)
    outputs = [export_path(config.out, scan.name, scan.image) for scan in scans]
    _refuse_existing(outputs, config.overwrite)
    stride = (config.stride_xy, config.stride_xy, config.stride_z)
    predictor = Predictor(network.to(device), config.patch_size, stride, precision)
    print(
        f"{trained.checkpoint}: {config.num_classes} classes, patch {config.patch_size}, {precision} on {device.type}; "
        f"scans are treated as {whence}"
    )
    for scan, path in zip(progress(scans, "predicting", unit="scan"), outputs, strict=True):
        _, volume = read_and_prepare(scan, settings)
        probabilities = predictor(torch.from_numpy(volume.image)).cpu().numpy()
        made = maps(probabilities, volume, config.probabilities, config.uncertainty)
        if config.largest_component:
            made[""] = largest_components(made[""], config.num_classes)
        for kind, array in made.items():
            write_image(path if not kind else export_path(config.out, scan.name, scan.image, kind), array,
                        volume.original.geometry)  # fmt: skip
    _tell(outputs, config.out)
    return outputs


def on_original_grid(probabilities: np.ndarray, volume: Volume) -> np.ndarray:
    """Bring class probabilities (C, w, h, d) of a prepared volume back to the grid of the scan's file, (C, W, H, D).

    What was cropped away is background for certain.
    """
    original = volume.original or volume.grid
    back = resample(probabilities.astype(np.float32, copy=False), volume.grid, original, outside=-1)
    cut = back[0] < 0
    back[:, cut] = 0
    back[0, cut] = 1
    return back


def maps(probabilities: np.ndarray, volume: Volume, soft: bool = False, entropy: bool = False) -> dict[str, np.ndarray]:
    """Bring a prediction back to the grid of the scan's file.

    Args:
        probabilities: (C, w, h, d), on the prepared volume's grid.
        soft: add the probability of every foreground class.
        entropy: add the entropy of the class probabilities in nats.

    Returns:
        (W, H, D) by kind: '' is the label map, uint8; 'probability1', … and 'uncertainty' are float32. What
        was cropped away is background for certain.
    """
    back = on_original_grid(probabilities, volume)
    result = {"": back.argmax(axis=0).astype(np.uint8)}
    if soft:
        result |= {f"probability{c}": back[c] for c in range(1, len(back))}
    if entropy:
        result["uncertainty"] = np.maximum(-(back * np.log(np.maximum(back, 1e-12))).sum(axis=0), 0)
    return result


def export_cohort(config: PredictConfig, trained: TrainedModel) -> list[Path]:
    """Write the last labels of every unlabeled scan of a training run."""
    arguments = trained.arguments
    if not arguments:
        raise InputError(f"{trained.folder} holds no args.json, so the run's scans are not known; use --scans")
    root = Path(config.root_path or arguments["root_path"])
    dataset = Dataset(root, arguments["image_key"], arguments["binary_label"])
    labels = last_labels(trained.folder)
    if labels is None:
        raise InputError(f"{trained.folder / 'pseudo_labels'} holds no finished round; train first")
    names = dataset.names("train.txt")[arguments["labeled_num"] :]
    outputs = []
    with h5py.File(labels, "r") as file:
        missing = [name for name in names if name not in file]
        if missing:
            raise InputError(
                f"{labels} holds no label of {listed(missing)}; {root / 'train.txt'} changed since the run. Bring it "
                "back, or train anew"
            )
        volumes = [dataset.load(name) for name in progress(names, "reading")]
        outputs = [export_path(config.out, volume.name, volume.source) for volume in volumes]
        _refuse_existing(outputs, config.overwrite)
        for volume, path in zip(progress(volumes, "exporting"), outputs, strict=True):
            label = file[volume.name][()]
            if label.shape != volume.image.shape:
                raise InputError(
                    f"{labels}: the label of {volume.name} has shape {label.shape}, its volume {volume.image.shape}; "
                    "the scans were prepared anew since the run, so train anew"
                )
            original = volume.original or volume.grid
            write_image(path, resample_label(label, volume.grid, original), original.geometry)
    print(f"{labels}: the labels of {len(outputs)} scans")
    _tell(outputs, config.out)
    return outputs


def find_settings(config: PredictConfig, trained: TrainedModel) -> tuple[Preparation, str]:
    """Return how the run's training data were prepared, and where that is known from."""
    if config.preparation is not None:
        path = config.preparation
        if not path.is_file():
            raise InputError(f"--preparation {path} is missing; prepare_data.py writes it into the dataset folder")
        try:
            return Preparation.from_json(json.loads(path.read_text(encoding="utf-8")), str(path)), f"{path} says"
        except (OSError, ValueError) as error:
            raise InputError(f"--preparation {path} cannot be read ({error})") from None
    if trained.preparation is not None:
        where = trained.folder / "args.json"
        return Preparation.from_json(trained.preparation, str(where)), "the training data were"
    root = trained.arguments.get("root_path")
    kept = read_preparation(Path(root)) if root else None
    if kept is not None:
        return kept, f"the training data in {root} were"
    return Preparation(orientation="keep"), (
        "they lie, with z-scores: how the training data were prepared is not known (--preparation says it)"
    )


def find_scans(paths: Iterable[Path]) -> list[ScanFiles]:
    """Return the scans that files and folders hold.

    Raises:
        InputError: if a path holds none, or two scans have one name.
    """
    scans: dict[str, ScanFiles] = {}
    for path in paths:
        if path.is_file():
            if stem(path) is None:
                raise InputError(f"{path} is not in a format read here; convert it to one of {', '.join(SUFFIXES)}")
            found = {stem(path): ScanFiles(stem(path), path)}
        elif is_dicom_folder(path):
            found = {path.name: ScanFiles(path.name, path)}
        elif path.is_dir():
            found = find_folder(path).scans
        else:
            raise InputError(f"--scans {path} is missing")
        twice = sorted(found.keys() & scans.keys())
        if twice:
            raise InputError(f"--scans names {listed(twice)} twice; predict them into folders of their own")
        scans |= found
    return list(scans.values())


def _refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    existing = [path.name for path in paths if path.exists()]
    if existing and not overwrite:
        raise InputError(f"{paths[0].parent} holds {listed(existing)} already; name another --out, or --overwrite")
    folder = paths[0].parent
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file; name a folder")


def _tell(outputs: Sequence[Path], folder: Path) -> None:
    print(f"written: {len(outputs)} label maps in {folder}, such as {outputs[0].name}; open one over its scan in "
          "ITK-SNAP or 3D Slicer")  # fmt: skip
