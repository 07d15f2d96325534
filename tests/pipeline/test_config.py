"""The command lines: published defaults, and values that depend on each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semisam_o1 import PROJECT_ROOT
from semisam_o1.commands.testing import TestConfig
from semisam_o1.core.device import resolve_device, resolve_precision
from semisam_o1.core.errors import InputError
from semisam_o1.core.flags import parse
from semisam_o1.pipeline.config import TrainConfig, find_checkpoint


def test_training_defaults_are_the_published_ones() -> None:
    config = parse(TrainConfig, [], "")
    assert config.root_path == PROJECT_ROOT / "data" / "LA"
    assert (config.exp, config.backbone, config.model) == ("SemiSAM_O1/LA", "uamt", "unet_3D")
    assert (config.max_iterations, config.num_rounds, config.patch_size) == (15000, 3, (128, 128, 128))
    assert (config.labeled_num, config.labeled_bs, config.batch_size, config.num_classes) == (1, 1, 2, 2)
    assert (config.base_lr, config.DAN_lr, config.ema_decay) == (0.01, 0.0001, 0.99)
    assert (config.consistency, config.consistency_rampup) == (0.1, 200.0)
    assert (config.knn_k, config.uncertainty_quantile, config.seed, config.deterministic) == (5, 0.9, 1337, 1)
    assert (config.propagation, config.features) == ("prototype", "sam")
    assert (config.val_interval, config.save_interval, config.val_stride, config.log_images) == (200, 3000, 96, 500)
    assert config.labels_for_diagnosis
    assert not config.binary_label


def test_the_dataset_says_how_many_classes_it_has(tmp_path: Path) -> None:
    root = ["--root_path", str(tmp_path)]
    assert parse(TrainConfig, root, "").num_classes == 2
    path = tmp_path / "preparation.json"
    for content, count in (('{"num_classes": 4}', 4), ('{"num_classes": "4"}', 2), ('{"class_names": {}}', 2)):
        path.write_text(content)
        assert parse(TrainConfig, root, "").num_classes == count
    path.write_text('{"num_classes": 4}')
    assert parse(TrainConfig, [*root, "--num_classes", "3"], "").num_classes == 3
    assert parse(TrainConfig, [*root, "--binary_label"], "").num_classes == 2
    path.write_text("{")
    with pytest.raises(InputError, match=r"preparation\.json cannot be read"):
        parse(TrainConfig, root, "")


def test_dtc_always_uses_its_network() -> None:
    assert parse(TrainConfig, ["--backbone", "dtc"], "").model == "unet_3D_sdf"


def test_builtin_features_stand_in_for_a_missing_checkpoint_with_atlas_only(tmp_path: Path) -> None:
    missing = ["--sam_ckpt", str(tmp_path / "none.pth")]
    assert parse(TrainConfig, ["--propagation", "atlas", *missing], "").features == "builtin"
    assert parse(TrainConfig, missing, "").features == "sam"
    (tmp_path / "some.pth").touch()
    there = ["--sam_ckpt", str(tmp_path / "some.pth")]
    assert parse(TrainConfig, ["--propagation", "atlas", *there], "").features == "sam"


@pytest.mark.parametrize(
    ("flags", "value"), [([], False), (["--binary_label"], True), (["--binary_label", "off"], False)]
)
def test_switches(flags: list[str], value: bool) -> None:
    assert parse(TrainConfig, flags, "").binary_label is value


def test_checkpoint_is_looked_up_from_here_then_from_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(Path("pretrained_ckpt/x.pth")) == PROJECT_ROOT / "pretrained_ckpt" / "x.pth"
    (tmp_path / "x.pth").touch()
    assert find_checkpoint(Path("x.pth")).resolve() == tmp_path / "x.pth"


def test_test_settings_come_from_flags_then_from_training_then_from_the_defaults() -> None:
    config = TestConfig(root_path=Path("d"), exp="x", num_classes=4)
    resolved = config.resolve({"num_classes": 3, "patch_size": [32, 48, 96], "model": "unet_3D_sdf"})
    assert (resolved.num_classes, resolved.patch_size, resolved.model) == (4, (32, 48, 96), "unet_3D_sdf")
    assert (resolved.stride_xy, resolved.stride_z) == (32, 64)
    resolved = config.resolve({})
    assert (resolved.patch_size, resolved.stride_xy, resolved.model) == ((128, 128, 128), 64, "unet_3D")
    planned = {"patch_size": [64, 64, 48], "recipe": "best", "val_stride": 24}
    assert (config.resolve(planned).stride_xy, config.resolve(planned).stride_z) == (24, 24)
    resolved = config.resolve(planned | {"recipe": "published"})
    assert (resolved.stride_xy, resolved.stride_z) == (64, 48)
    resolved = TestConfig(root_path=Path("d"), exp="x", stride_xy=40).resolve(planned)
    assert (resolved.stride_xy, resolved.stride_z) == (40, 24)
    assert TestConfig(root_path=Path("d"), exp="x").resolve({}).num_classes == 2
    with pytest.raises(InputError, match="--stride_z must be at least 1"):
        TestConfig(root_path=Path("d"), exp="x", stride_z=0).resolve({})
    assert (config.resolve({}).zooms, config.resolve({"zooms": [0.9, 1]}).zooms) == ((1.0,), (0.9, 1))
    with pytest.raises(InputError, match="--zooms needs a number"):
        TestConfig(root_path=Path("d"), exp="x", zooms=())
    with pytest.raises(InputError, match=r"--zooms must lie between 0.5 and 2, it is 0.2"):
        TestConfig(root_path=Path("d"), exp="x", zooms=(1.0, 0.2))
    assert TestConfig(root_path=Path("d"), exp="x", stride_z=70).resolve({"patch_size": [32, 48, 64]}).stride_z == 64


def test_precision_and_device() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_precision("fp32", "cpu") == "fp32"
    assert resolve_precision("auto", "cpu") in ("fp32", "bf16")


def test_a_recipe_sets_defaults_and_flags_beside_it_win() -> None:
    config = parse(TrainConfig, ["--recipe", "best", "--orientations", "all", "--augmentation"], "")
    assert (config.propagation, config.refinement, config.backbone) == ("atlas", "fusion", "mt")
    assert (config.orientations, config.augmentation) == ("all", ())
    assert config.confidence_weights
    assert (config.base_lr, config.ema_decay, config.foreground) == (0.1, 0.95, 0.5)
    assert config.zooms == (0.85, 1.0, 1.15)
    published = parse(TrainConfig, [], "")
    assert (published.propagation, published.refinement, published.backbone) == ("prototype", "knn", "uamt")
    assert not (published.confidence_weights or published.use_teacher or published.warm_start)
    assert (published.augmentation, published.foreground) == ((), 0.0)


def test_a_recipe_applies_from_python_too() -> None:
    assert TrainConfig(recipe="best", orientations="all") == parse(
        TrainConfig, ["--recipe", "best", "--orientations", "all"], ""
    )
    assert TrainConfig(recipe="best").refinement == "fusion"


@pytest.mark.parametrize("flags", [["--refinement", "fusion"], ["--augmentation", "template"]])
def test_what_works_by_registration_needs_it(flags: list[str]) -> None:
    with pytest.raises(InputError, match="--registration on"):
        parse(TrainConfig, ["--propagation", "atlas", "--registration", "off", *flags], "")


@pytest.mark.parametrize("value", [[], ["1"]])
def test_the_prompt_of_the_original_command_lines_is_accepted(value: list[str]) -> None:
    assert parse(TrainConfig, ["--prompt", *value, "--seed", "3"], "").seed == 3
