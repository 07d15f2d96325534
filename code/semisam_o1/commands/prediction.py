"""Label maps for scans on their own grid and in their own format: new scans, or the run's own cohort."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semisam_o1.commands.export import check_outputs, export_cohort, export_path, to_original_grid, write_image
from semisam_o1.commands.trained import LoadedModel, TrainedConfig, describe_best, load_model
from semisam_o1.core.device import resolve_device
from semisam_o1.core.errors import InputError, listed, raise_faults
from semisam_o1.core.flags import assign, option
from semisam_o1.core.progress import progress
from semisam_o1.data.preparation.formats import SUFFIXES, is_dicom_folder, stem
from semisam_o1.data.preparation.scans import header_faults, read_and_prepare
from semisam_o1.data.preparation.settings import Preparation, read_preparation
from semisam_o1.data.preparation.sources import ScanFiles, find_folder
from semisam_o1.runs.find import TrainedModel
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import read_records
from semisam_o1.runs.results import read_run


@dataclass(frozen=True, kw_only=True)
class PredictConfig(TrainedConfig):
    """Flags of ``predict.py``."""

    scans: tuple[Path, ...] = option((), "image files, folders of them or of a DICOM series", nargs="+", metavar="PATH")
    cohort: bool = option(False, "export the labels of the run's own scans instead, after the best round")
    out: Path = option(None, "folder for the label maps", required=True, metavar="DIR")
    probabilities: bool = option(False, "also write the probability of every foreground class")
    uncertainty: bool = option(False, "also write the entropy of the class probabilities, in nats")
    preparation: Path | None = option(None, "preparation.json of the data (default: from the run)", metavar="FILE")
    root_path: Path | None = option(None, "with --cohort: the dataset folder, if it was moved", metavar="DIR")
    overwrite: bool = option(False, "replace existing files")

    def __post_init__(self) -> None:
        assign(self, scans=tuple(Path(path).expanduser() for path in self.scans), out=Path(self.out).expanduser())
        if self.ckpt is not None and (self.exp is None or Path(self.ckpt).is_file()):
            assign(self, ckpt=str(Path(self.ckpt).expanduser().resolve()))
        super().__post_init__()

    def faults(self) -> list[str]:
        faults = super().faults()
        if self.exp is None and self.ckpt is None:
            faults.append("--exp is missing; name the experiment, or a checkpoint with --ckpt")
        if self.cohort == bool(self.scans):
            faults.append("give either --scans (files or folders to segment) or --cohort (the run's own scans)")
        if self.cohort and (self.probabilities or self.uncertainty):
            faults.append(
                "--cohort exports labels, which are all that a run keeps of its scans; for --probabilities and "
                "--uncertainty give the scans with --scans"
            )
        return faults


def predict(config: PredictConfig) -> list[Path]:
    """Segment scans with a trained model, or export the labels of a run's cohort; return the label maps written.

    Raises:
        InputError: if the checkpoint or a scan cannot be used; no file was written then.
    """
    if config.cohort:
        try:  # labels exist before the first checkpoint does
            run = config.find(config.ckpt or "args.json")
        except InputError:
            run = config.find(config.ckpt)
        if not run.arguments:
            raise InputError(f"{run.folder} holds no args.json, so the run's scans are not known; use --scans")
        outputs = export_cohort(read_run(run.folder), config.root_path, config.out, config.overwrite)
    else:
        outputs = predict_scans(config)
    print(
        f"written: {len(outputs)} label maps in {config.out}, such as {outputs[0].name}; open one over its scan in "
        "ITK-SNAP or 3D Slicer"
    )
    return outputs


def predict_scans(config: PredictConfig) -> list[Path]:
    """Segment files and folders of scans."""
    model = load_model(config, resolve_device(config.device))
    settings, treatment = find_preparation(config, model.trained)
    scans = find_scans(config.scans)
    raise_faults([fault for scan in scans for fault in header_faults(scan, settings.channel)], "scans cannot be used")
    outputs = [export_path(config.out, scan.name, scan.image) for scan in scans]
    check_outputs(outputs, "--out", config.overwrite)
    checkpoint, folder = model.trained.checkpoint, RunFolder(model.trained.folder, model.trained.model)
    records = read_records(folder) if checkpoint == folder.best_model else []
    origin = f" ({describe_best(records)})" if len(records) > 1 else ""
    print(f"{checkpoint}{origin}: {model}; scans are treated as {treatment}")
    for scan in progress(scans, "predicting", unit="scan"):
        _, volume = read_and_prepare(scan, settings)
        probabilities = to_original_grid(model.probabilities(volume.image), volume)
        for kind, array in _output_maps(model, probabilities).items():
            write_image(export_path(config.out, scan.name, scan.image, kind), array, volume.original.geometry)
    return outputs


def _output_maps(model: LoadedModel[PredictConfig], probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Return the maps (W, H, D) to write for one scan by kind, from its class probabilities (C, W, H, D).

    '' is the label map, uint8; 'probability1', … and 'uncertainty' (the entropy in nats) are float32.
    """
    maps = {"": model.label_map(probabilities)}
    if model.config.probabilities:
        maps |= {f"probability{c}": probabilities[c] for c in range(1, len(probabilities))}
    if model.config.uncertainty:
        entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=0)
        maps["uncertainty"] = np.maximum(entropy, 0)
    return maps


def find_preparation(config: PredictConfig, trained: TrainedModel) -> tuple[Preparation, str]:
    """Return the preparation of the training data, and how to announce it: 'scans are treated as ...'."""
    if config.preparation is not None:
        path, preparation = config.preparation, read_preparation(config.preparation)
        if preparation is None:
            raise InputError(f"--preparation {path} is missing; prepare_data.py writes it into the dataset folder")
        return preparation, f"{path} says"
    if trained.preparation is not None:
        source = trained.folder / "args.json"
        return Preparation.from_json(trained.preparation, str(source)), "the training data were"
    root = trained.arguments.get("root_path")
    if root and (preparation := read_preparation(Path(root))) is not None:
        return preparation, f"the training data in {root} were"
    return Preparation(orientation="keep"), (
        "they lie, with z-scores: how the training data were prepared is not known (--preparation says it)"
    )


def find_scans(paths: Iterable[Path]) -> list[ScanFiles]:
    """Return the scans in files and folders.

    Raises:
        InputError: if a path holds none, or two scans have one name.
    """
    scans: dict[str, ScanFiles] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"--scans {path} is missing")
        name = stem(path) if path.is_file() else path.name if is_dicom_folder(path) else None
        if path.is_file() and name is None:
            raise InputError(f"{path} is not in a format read here; convert it to one of {', '.join(SUFFIXES)}")
        found = find_folder(path).scans if name is None else {name: ScanFiles(name, path)}
        twice = sorted(found.keys() & scans.keys())
        if twice:
            raise InputError(f"--scans names {listed(twice)} twice; predict them into folders of their own")
        scans |= found
    return list(scans.values())
