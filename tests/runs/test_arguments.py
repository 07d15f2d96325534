"""Whether a run that goes on is the same run: every argument, and the data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Geometry
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.preflight.inspection import VolumeInfo
from semisam_o1.data.preparation.settings import Classes, Preparation
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.runs.arguments import check_same_run, describe_run, read_previous, write_arguments
from semisam_o1.runs.layout import RunFolder

CPU = torch.device("cpu")


def make_cohort(**hashes: str) -> Cohort:
    info = {
        name: VolumeInfo(name, (4, 5, 6), hashes.get(name, "i"), hashes.get(f"{name}_label", "l"), Geometry())
        for name in ("a", "b", "c", "v")
    }
    return Cohort(("a",), ("b", "c"), ("v",), info)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """The folder of a run that was started with the defaults."""
    folder = RunFolder(tmp_path, "unet_3D")
    write_arguments(folder, describe_run(TrainConfig(), make_cohort(), CPU, "fp32", "sam-1"))
    return folder


def go_on(
    folder: RunFolder, cohort: Cohort | None = None, resolved: str = "fp32", key: str = "sam-1", **changes: object
) -> None:
    before = read_previous(folder)
    config = TrainConfig(**changes)
    check_same_run(before, describe_run(config, cohort or make_cohort(), CPU, resolved, key), config, folder)


OTHER = {
    bool: lambda value: not value,
    int: lambda value: value + 1,
    float: lambda value: 0.5 * value or 0.5,
    tuple: lambda value: (64, 64, 32),
}
WORDS = {
    "num_classes": 3, "prompt": "point",
    "recipe": "best", "refinement": "fusion", "augmentation": ("spatial",),
    "backbone": "mt", "model": "unet_3D_sdf", "propagation": "atlas", "features": "builtin", "image_key": "t1",
    "orientations": "flips", "device": "cpu", "precision": "fp32", "cache": "ram", "exp": "elsewhere",
    "root_path": Path("/elsewhere"), "sam_ckpt": Path("/elsewhere.pth"), "deterministic": 0, "max_time": 3.0,
    "tune": "off", "hours": 1.0, "zooms": (0.9, 1.1), "network_levels": "331/221 333/222 333/222 333/222",
}  # fmt: skip


def other_value(field: dataclasses.Field) -> object:
    """Return a value of a flag that is legal and not its default."""
    if field.name in WORDS:
        return WORDS[field.name]
    return OTHER[type(field.default)](field.default)


@pytest.mark.parametrize("field", dataclasses.fields(TrainConfig), ids=lambda field: field.name)
def test_every_flag_is_harmless_or_refused_by_name(field: dataclasses.Field, folder: RunFolder) -> None:
    changes = {field.name: other_value(field)}
    if field.name == "labeled_bs":
        changes |= {"batch_size": 4}
    if field.name == "model":
        changes |= {"backbone": "dtc"}
    if field.metadata["resume"] in ("any", "more"):
        go_on(folder, **changes)
    else:
        with pytest.raises(InputError, match=rf"--{field.name} was .* and is "):
            go_on(folder, **changes)


def test_a_run_goes_on_with_more_iterations_only(folder: RunFolder) -> None:
    with pytest.raises(InputError, match="--max_iterations was 15000 and is 400"):
        go_on(folder, max_iterations=400)


def test_names_of_classes_go_with_the_run(tmp_path: Path) -> None:
    classes = Classes(3, {1: "liver", 2: "tumor"})
    (tmp_path / "preparation.json").write_text(json.dumps(Preparation().to_json() | classes.to_json()))
    content = describe_run(TrainConfig(root_path=tmp_path), make_cohort(), CPU, "fp32", "sam-1")
    assert content["arguments"]["num_classes"] == 3
    assert Classes.from_json(content["preparation"]) == classes
    assert Preparation.from_json(content["preparation"], "args.json") == Preparation()


def test_a_flag_that_an_older_version_did_not_have_counts_as_its_default(folder: RunFolder) -> None:
    content = json.loads(folder.args.read_text())
    del content["arguments"]["orientations"]
    folder.args.write_text(json.dumps(content))
    go_on(folder)
    with pytest.raises(InputError, match="--orientations was all and is none"):
        go_on(folder, orientations="none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": "x"}, r"train\.txt of .* changed .*\(b\)"),
        ({"a_label": "x"}, r"labels of .* changed .*\(a\)"),
        ({"v": "x"}, r"val\.txt of .* changed .*\(v\)"),
        ({"v_label": "x"}, r"labels of .* changed .*\(v\)"),
    ],
)
def test_changed_data_are_named(change: dict[str, str], message: str, folder: RunFolder) -> None:
    with pytest.raises(InputError, match=message):
        go_on(folder, make_cohort(**change))


def test_labels_that_are_never_used_may_change(folder: RunFolder) -> None:
    go_on(folder, make_cohort(b_label="x"))


def test_another_order_is_another_run(folder: RunFolder) -> None:
    with pytest.raises(InputError, match="the order"):
        go_on(folder, dataclasses.replace(make_cohort(), unlabeled=("c", "b")))


def test_precision_and_foundation_weights_are_compared_by_what_they_are(folder: RunFolder) -> None:
    with pytest.raises(InputError, match="--precision was fp32 and is bf16"):
        go_on(folder, resolved="bf16")
    with pytest.raises(InputError, match="--sam_ckpt was sam-1 and is sam-2"):
        go_on(folder, key="sam-2")


def test_environment_are_kept_and_compared(folder: RunFolder) -> None:
    before, now = read_previous(folder), describe_run(TrainConfig(), make_cohort(), CPU, "fp32", "sam-1")
    assert write_arguments(folder, now, before) == []
    before["versions"]["torch"] = "2.4.0"
    (remark,) = write_arguments(folder, now, before)
    assert f"torch 2.4.0 → {torch.__version__}" in remark
    assert write_arguments(folder, now, read_previous(folder)) == []
    before = read_previous(folder)
    assert [part["versions"]["torch"] for part in before["earlier"]] == ["2.4.0"]
