"""A run with one more label is compared with the run before it; the worst cases come first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import report
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.report.earlier import compare, find_earlier
from semisam_o1.report.page import badness
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, write_round
from semisam_o1.runs.results import Case, read_run
from tiny_cohort import write_cohort


def write_run(root: Path, exp: Path, labeled: int, shift: int, dice: float | None) -> RunFolder:
    """Write a run whose round 1 has labels that lie ``shift`` voxels beside the true ones."""
    folder, dataset = RunFolder.of(str(exp), "mt", labeled, "unet_3D"), Dataset(root)
    folder.create()
    arguments = {
        "root_path": str(root),
        "exp": str(exp),
        "backbone": "mt",
        "model": "unet_3D",
        "image_key": "image",
        "binary_label": False,
        "labeled_num": labeled,
        "num_classes": 3,
        "patch_size": [32, 16, 16],
        "max_iterations": 4,
        "num_rounds": 1,
    }
    folder.args.write_text(json.dumps({"arguments": arguments}))
    names = dataset.names("train.txt")
    for round_ in (0, 1):
        labels = {name: np.roll(dataset.load(name).label, shift * round_, axis=0) for name in names}
        known = {} if dice is None else dict.fromkeys(names[labeled:], dice)
        record = RoundRecord(round_, 0.1, 0.2, (), 0.0, None, None, 1.0, None, 4 if round_ else None)
        write_round(folder, PseudoLabels(labels, uncertainty=dict.fromkeys(names[labeled:], 0.2), dice=known), record)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_cohort(tmp_path / "data")


def test_the_report_compares_with_the_run_of_one_label_less(root: Path, tmp_path: Path) -> None:
    write_run(root, tmp_path / "first", 1, 2, 0.5)
    folder = write_run(root, tmp_path / "first_2", 2, 0, 0.75)
    assert run_command(report.main, [str(folder.path)]) == 0
    page = folder.report.read_text(encoding="utf-8")
    assert "Before and after: first_MT_1label_1" in page and "With the label of train1, on 4 scans" in page
    assert '<td data-value="0.5">0.500</td>' in page and "<td>+0.250</td>" in page

    first = read_run(tmp_path / "first_MT_1label_1" / "unet_3D")
    assert find_earlier(first) is None
    found = compare(first, read_run(folder.path))
    assert found.added == ["train1"] and found.scans == 4
    assert found.agreement == pytest.approx(np.mean([value for _, value in found.changed]))
    assert 0.3 < found.agreement < 0.95


def test_runs_of_other_data_and_broken_ones_are_no_earlier_runs(root: Path, tmp_path: Path) -> None:
    write_run(write_cohort(tmp_path / "other"), tmp_path / "other_run", 1, 0, None)
    for name, content in (("a", "{"), ("b", "[]"), ("c", '{"arguments": 3}')):
        (tmp_path / name / "unet_3D").mkdir(parents=True)
        (tmp_path / name / "unet_3D" / "args.json").write_text(content)
    broken = write_run(root, tmp_path / "broken", 1, 0, None)
    broken.pseudo_labels(0).write_bytes(b"x")
    assert find_earlier(read_run(write_run(root, tmp_path / "run", 2, 0, None).path)) is None


def test_without_true_labels_the_least_expected_case_is_the_worst() -> None:
    cases = [
        Case("sure", Path("a"), [1], expected=(0.9, 0.8), uncertainty=0.1),
        Case("doubtful", Path("a"), [1], expected=(0.2, 0.8), uncertainty=0.05),
        Case("unknown", Path("a"), [1], uncertainty=0.9),
        Case("known", Path("a"), [1], dice=[0.1], expected=(0.9,)),
    ]
    assert [case.name for case in sorted(cases, key=badness)] == ["known", "doubtful", "sure", "unknown"]
