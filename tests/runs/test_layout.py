"""Names inside a run folder, and how testing finds a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semisam_o1.core.errors import InputError
from semisam_o1.runs.find import find_trained
from semisam_o1.runs.layout import MODEL_ROOT, RunFolder


def checkpoint(folder: Path, name: str = "unet_3D_best_model.pth") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    return folder / name


def test_names_follow_the_published_layout() -> None:
    folder = RunFolder.of("SemiSAM_O1/LA", "uamt", 1, "unet_3D")
    assert folder.path == MODEL_ROOT / "SemiSAM_O1" / "LA_UAMT_1label_1" / "unet_3D"
    assert folder.best_model.name == "unet_3D_best_model.pth"
    assert folder.improvement(2, 400, 0.81234).name == "round2_iter400_dice0.8123.pth"
    assert folder.periodic(1, 3000).name == "round1_iter3000.pth"
    assert folder.pseudo_labels(0).relative_to(folder.path) == Path("pseudo_labels/round0.h5")


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path / "x"), "mt", 1, "unet_3D")
    folder.check(resume=False, overwrite=False)
    folder.create()
    with pytest.raises(InputError, match="--resume"):
        folder.check(resume=False, overwrite=False)
    folder.check(resume=True, overwrite=False)
    (folder.path / "old.pth").touch()
    folder.create(overwrite=True)
    assert not (folder.path / "old.pth").exists()


def test_leftovers_of_a_killed_run_are_cleared_away(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path / "x"), "mt", 1, "unet_3D")
    folder.create()
    leftovers = [folder.path / "state.pth.partial", folder.figures / "partial_curves.png"]
    for path in (*leftovers, folder.state):
        path.touch()
    folder.create()
    assert folder.state.exists()
    assert not any(path.exists() for path in leftovers)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose another --exp"):
        RunFolder.of(str(tmp_path / "file" / "x"), "mt", 1, "unet_3D").create()


def test_a_literal_folder_comes_first(tmp_path: Path) -> None:
    wanted = checkpoint(tmp_path / "la" / "unet_3D")
    checkpoint(tmp_path / "la_MT_1label_1" / "unet_3D")
    assert find_trained(str(tmp_path / "la")).checkpoint == wanted
    wanted = checkpoint(tmp_path / "la_4" / "unet_3D")
    assert find_trained(str(tmp_path / "la"), labeled_num=4).checkpoint == wanted


def test_a_given_backbone_is_never_the_literal_folder_instead(tmp_path: Path) -> None:
    checkpoint(tmp_path / "la" / "unet_3D")
    wanted = checkpoint(tmp_path / "la_DTC_1label_1" / "unet_3D_sdf", "unet_3D_sdf_best_model.pth")
    assert find_trained(str(tmp_path / "la"), backbone="dtc").checkpoint == wanted


def test_an_absolute_checkpoint_is_the_checkpoint(tmp_path: Path) -> None:
    wanted = checkpoint(tmp_path / "elsewhere" / "unet_3D_sdf", "mine.pth")
    (wanted.parent / "args.json").write_text(json.dumps({"arguments": {"num_classes": 5}}))
    found = find_trained("any", ckpt=str(wanted))
    assert (found.folder, found.model, found.arguments) == (wanted.parent, "unet_3D_sdf", {"num_classes": 5})
    with pytest.raises(InputError, match=r"other\.pth is missing"):
        find_trained("any", ckpt=str(tmp_path / "other.pth"))


def test_the_experiment_name_of_training_is_enough(tmp_path: Path) -> None:
    wanted = checkpoint(tmp_path / "la_DTC_1label_1" / "unet_3D_sdf", "unet_3D_sdf_best_model.pth")
    (wanted.parent / "args.json").write_text(json.dumps({"arguments": {"num_classes": 3}}))
    found = find_trained(str(tmp_path / "la"))
    assert (found.checkpoint, found.model, found.arguments) == (wanted, "unet_3D_sdf", {"num_classes": 3})


def test_several_runs_need_a_choice(tmp_path: Path) -> None:
    paths = {
        (backbone, labels): checkpoint(tmp_path / f"la_{backbone.upper()}_{labels}label_1" / "unet_3D")
        for backbone, labels in (("mt", 1), ("uamt", 1), ("mt", 4))
    }
    with pytest.raises(InputError, match="several trained models") as error:
        find_trained(str(tmp_path / "la"))
    assert all(str(path) in str(error.value) for path in paths.values())
    assert find_trained(str(tmp_path / "la"), backbone="uamt").checkpoint == paths["uamt", 1]
    assert find_trained(str(tmp_path / "la"), labeled_num=4).checkpoint == paths["mt", 4]


def test_what_is_there_is_listed(tmp_path: Path) -> None:
    checkpoint(tmp_path / "la_MT_1label_1" / "unet_3D", "round1_best.pth")
    with pytest.raises(InputError, match=r"round1_best\.pth"):
        find_trained(str(tmp_path / "la"))
    with pytest.raises(InputError, match="la_MT_1label_1"):
        find_trained(str(tmp_path / "brats"))
