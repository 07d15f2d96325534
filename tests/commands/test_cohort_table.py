"""The table that says where the label of every scan comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from exported_cohort import NAMES, export, exported, point_to, rows, run_of, write_partly_labeled
from semisam_o1.commands import cohort
from semisam_o1.commands.cohort_labels import CohortScan
from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.networks import build_network


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_partly_labeled(tmp_path / "data")


def test_every_scan_of_the_dataset_has_a_file_and_a_row(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_of(tmp_path, (0.9,))
    point_to(folder, root)
    torch.save(build_network("unet_3D", 3).state_dict(), folder.best_model)
    out = tmp_path / "out"
    assert export(tmp_path / "run", out, "--round", "1") == 0
    assert sorted(p.name for p in out.iterdir()) == sorted([*(f"{n}.nii.gz" for n in [*NAMES, "extra"]), "labels.csv"])
    for name in ("train0", "train1", "val0", "test0"):
        np.testing.assert_array_equal(exported(out, name), Dataset(root).load(name).label)
    expected = {"train0": "own mask", "train2": "round 1", "val0": "own mask", "test1": "network", "extra": "network"}
    table = rows(out)
    assert {name: table[name]["label"] for name in expected} == expected
    assert {name: table[name]["list"] for name in ("train2", "test1", "extra")} == {
        "train2": "train.txt",
        "test1": "test.txt",
        "extra": "",
    }
    assert table["train5"]["uncertainty"] == "0.2500" and table["test1"]["validation_dice"] == "0.9000"
    printed = capsys.readouterr().out
    assert "10 scans: 4 with your own mask, 4 with the label of round 1, 2 predicted by the network" in printed
    assert "--ckpt" not in printed, "which the user did not give"

    assert export(tmp_path / "run", tmp_path / "off", "--round", "1", "--own_masks", "off") == 0
    origins = [row["label"] for row in rows(tmp_path / "off").values()]
    assert origins.count("round 1") == 4 and origins.count("network") == 6, "those of the labeled scans are the user's"


def test_the_table_keeps_what_it_says_of_files_that_are_there(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = run_of(tmp_path, (0.9,)), tmp_path / "out"
    point_to(folder, root)
    torch.save(build_network("unet_3D", 3).state_dict(), folder.best_model)
    with monkeypatch.context() as patch:
        patch.setattr(cohort.LabelWriter, "write", fails_at("extra", cohort.LabelWriter.write))
        assert export(tmp_path / "run", out, "--round", "0") == 1
    before = rows(out)
    assert "extra" not in before and before["train5"]["label"] == "round 0"
    assert all(before["test1"][column] for column in ("expected_dice", "expected_dice_class1", "expected_dice_class2"))
    assert "error: extra cannot be read; --skip_existing goes on" in capsys.readouterr().err
    assert export(tmp_path / "run", out, "--round", "1", "--skip_existing") == 0
    after = rows(out)
    assert after["extra"]["label"] == "network" and after["extra"]["expected_dice"]
    assert {name: after[name] for name in before} == before
    printed = capsys.readouterr().out
    assert "4 with your own mask, 2 predicted by the network, 4 as before (round 0)" in printed
    assert "test1 (" in printed.split("not to be trusted")[1], "named again"
    assert export(tmp_path / "run", out, "--round", "1", "--overwrite") == 0
    assert rows(out)["train5"]["label"] == "round 1"


def fails_at(name: str, write: Callable[..., CohortScan]) -> Callable[..., CohortScan]:
    def failing(self: cohort.LabelWriter, scan: CohortScan) -> CohortScan:
        if scan.header.name == name:
            raise InputError(f"{name} cannot be read")
        return write(self, scan)

    return failing
