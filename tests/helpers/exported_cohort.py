"""Runs whose labels are exported for every scan of a dataset."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk

import predict
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, write_round
from tiny_cohort import LISTS, write_cohort

NAMES = [f"{split}{i}" for split, count in LISTS.items() for i in range(count)]
ARGUMENTS = {
    "image_key": "image",
    "binary_label": False,
    "labeled_num": 2,
    "num_classes": 3,
    "patch_size": [32, 16, 16],
    "propagation": "atlas",
    "features": "builtin",
    "registration": False,
}


def write_run(root: Path, exp: Path, dice: tuple[float, ...]) -> RunFolder:
    """Write a run of two labeled scans without a checkpoint; the pseudo-labels of round r have the value r + 10."""
    folder = RunFolder.of(str(exp), "mt", 2, "unet_3D")
    folder.create()
    folder.args.write_text(json.dumps({"arguments": {"root_path": str(root), **ARGUMENTS}}))
    dataset = Dataset(root)
    volumes = {name: dataset.load(name) for name in dataset.names("train.txt")}
    for round_, score in enumerate((None, *dice)):
        labels = {name: np.full_like(volume.label, round_ + 10) for name, volume in volumes.items()}
        labels |= {name: volumes[name].label for name in ("train0", "train1")}
        record = RoundRecord(round_, 0.1, None, (), 0.0, None, None, 1.0, score, None if score is None else 4)
        write_round(folder, PseudoLabels(labels, uncertainty={"train5": 0.25}), record)
    return folder


def write_partly_labeled(folder: Path) -> Path:
    """Write a dataset whose scans train2 to train5, test1 and one in no list have no mask, and return it."""
    root = write_cohort(folder)
    (root / "data" / "extra.h5").write_bytes((root / "data" / "test0.h5").read_bytes())
    for name in ("train2", "train3", "train4", "train5", "test1", "extra"):
        with h5py.File(root / "data" / f"{name}.h5", "r+") as file:
            del file["label"]
    return root


def run_of(tmp_path: Path, dice: tuple[float, ...]) -> RunFolder:
    return write_run(write_cohort(tmp_path / "whole"), tmp_path / "run", dice)


def point_to(folder: RunFolder, root: Path) -> None:
    content = json.loads(folder.args.read_text())
    content["arguments"]["root_path"] = str(root)
    folder.args.write_text(json.dumps(content))


def export(exp: Path, out: Path, *flags: str) -> int:
    return run_command(predict.main, ["--exp", str(exp), "--cohort", "--out", str(out), "--device", "cpu", *flags])


def exported(out: Path, name: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(out / f"{name}.nii.gz"))).T


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "labels.csv").open(encoding="utf-8") as file:
        return {row["scan"]: row for row in csv.DictReader(file)}
