"""The weights that come with the project: intact, and of use on a scan that they were not trained on."""

from __future__ import annotations

import hashlib
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from semisam_o1.commands import testing
from semisam_o1.commands.testing import TestConfig
from semisam_o1.commands.trained import load_model
from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Geometry, Volume, write_volume
from semisam_o1.runs import layout
from semisam_o1.runs.results import read_run

MODEL_ROOT = Path(__file__).resolve().parents[1] / "model"
NETWORKS = {"MT": "unet_3D", "UAMT": "unet_3D", "DAN": "unet_3D", "DTC": "unet_3D_sdf"}
FILES = {f"LA_O1/{name}": f"LA_O1/{name}/{network}/{network}_best_model.pth" for name, network in NETWORKS.items()}
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "real_data"
SCAN = "R8ER97O9UUN77C02VE2J"  # of the standard validation list


def test_the_files_are_those_that_the_sums_were_taken_of() -> None:
    lines = (MODEL_ROOT / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split() for line in lines)}
    assert sums == {name: hashlib.sha256((MODEL_ROOT / name).read_bytes()).hexdigest() for name in FILES.values()}


@pytest.mark.parametrize("exp", FILES)
def test_the_original_flags_load_the_weights_which_predict_a_small_volume(exp: str, tmp_path: Path) -> None:
    network = Path(FILES[exp]).parent.name
    model = load_model(TestConfig(root_path=tmp_path, exp=exp, model=network, num_classes=2), torch.device("cpu"))
    assert {weight.dtype for weight in model.predictor.network.parameters()} == {torch.float32}
    assert (model.config.patch_size, model.config.largest_component) == ((80, 64, 48), True)
    assert model.class_names == {1: "left atrium"}
    scan = np.random.default_rng(0).normal(size=(21, 18, 15)).astype(np.float32)
    probabilities = model.probabilities(scan)
    assert probabilities.shape == (2, *scan.shape)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-4)
    assert probabilities[1].std() > 0


def test_a_report_on_them_says_what_it_lacks() -> None:
    with pytest.raises(InputError, match="without the labels of its run"):
        read_run("LA_O1/MT")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"no real scans in {REAL_DATA}")
@pytest.mark.parametrize("exp", FILES)
def test_a_left_atrium_is_found_at_full_resolution(
    exp: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decode = runpy.run_path(str(REAL_DATA / "unpack_la.py"))["decode"]
    image, label = decode(REAL_DATA / "la" / f"{SCAN}.npz")
    write_volume(tmp_path / "data" / f"{SCAN}.h5", Volume(SCAN, image, label, Geometry((0.625,) * 3, known=True)))
    (tmp_path / "val.txt").write_text(f"{SCAN}\n")
    shutil.copytree((MODEL_ROOT / FILES[exp]).parent, (tmp_path / FILES[exp]).parent)
    monkeypatch.setattr(layout, "MODEL_ROOT", tmp_path)
    testing.test(TestConfig(root_path=tmp_path, exp=exp, test_list="val.txt", zooms=(1.0,)))
    summary = capsys.readouterr().out
    assert float(summary.split("left atrium")[1].split()[0]) > 0.8
