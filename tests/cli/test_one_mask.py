"""One mask and nothing else: from image files to labels of every scan and a report, with the real commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import predict
import prepare_data
import report
import train_SemiSAM_O1
from semisam_o1.commands.export import write_image
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Geometry
from tiny_cohort import SETTINGS

FLAGS = {**SETTINGS, "num_classes": "2", "num_rounds": "2", "propagation": "atlas", "registration": "off"}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scans with a bright box each; the first one has a mask."""
    folder = tmp_path_factory.mktemp("one mask")
    for i in range(5):
        generator = np.random.default_rng(i)
        label = np.zeros((26, 20 + i, 17), np.uint8)
        label[6 + i : 18 + i, 5:14, 4:12] = 1
        image = label + 0.3 * generator.standard_normal(label.shape).astype(np.float32)
        write_image(folder / "scans" / f"p{i}.nii.gz", image, Geometry(known=True))
        if i == 0:
            write_image(folder / "masks" / "p0.nii.gz", label, Geometry(known=True))
    return folder


def test_one_mask_is_enough(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--images", scans / "scans", "--labels", scans / "masks", "--template", "p0"]
    assert run_command(prepare_data.main, list(map(str, ["nifti", *files, scans / "data"]))) == 0
    flags = [part for key, value in FLAGS.items() for part in (f"--{key}", *value.split())]
    exp = scans / "run"
    assert run_command(train_SemiSAM_O1.main, ["--root_path", str(scans / "data"), "--exp", str(exp), *flags]) == 0
    printed = capsys.readouterr().out
    assert "selection:  the last of each round, since val.txt names no scan" in printed
    assert "best: round 2, the last one that was accepted (no validation label to select by)" in printed

    (folder,) = scans.glob("run_*/unet_3D")
    best, last = (
        torch.load(folder / name, weights_only=True) for name in ("unet_3D_best_model.pth", "round2_best.pth")
    )
    assert all(torch.equal(best[key], last[key]) for key in best)

    run = ["--exp", str(exp), "--backbone", FLAGS.get("backbone", "uamt")]
    assert run_command(predict.main, [*run, "--cohort", "--out", str(scans / "labels")]) == 0
    assert {path.name for path in (scans / "labels").glob("*.nii.gz")} == {f"p{i}.nii.gz" for i in range(5)}
    new = [*run, "--scans", str(scans / "scans" / "p1.nii.gz"), "--out", str(scans / "new"), "--device", "cpu"]
    assert run_command(predict.main, new) == 0
    assert "round 2 of 2, the last one that was accepted, without validation labels" in capsys.readouterr().out
    assert run_command(report.main, [str(exp)]) == 0
    assert "No validation label" in (folder / "report.html").read_text(encoding="utf-8")
