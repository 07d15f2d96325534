"""The real command: label maps that lie exactly over scans of any orientation, spacing and format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import predict
import prepare_data
import test_baseline
import train_SemiSAM_O1
from oriented_scans import DIRECTIONS, SPACING, blob, center, same_grid
from semisam_o1.commands import trained
from semisam_o1.core.errors import run_command
from standing_in import Threshold
from tiny_cohort import train_flags


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scans in five formats and orientations, prepared at 1.5 mm in RAS and trained on for four iterations."""
    folder = tmp_path_factory.mktemp("scans")
    for number, (name, direction) in enumerate(DIRECTIONS.items()):
        image, label = blob(direction, number)
        for kind, content in (("images", image), ("labels", label)):
            (folder / kind).mkdir(exist_ok=True)
            sitk.WriteImage(content, str(folder / kind / name))
    flags = ["--images", folder / "images", "--labels", folder / "labels", "--template", "axial", "--spacing", "1.5"]
    split = ["--split", "0.6", "0.2", "0.2", "--label_map", "1=1", folder / "data"]
    assert run_command(prepare_data.main, ["nifti", *map(str, [*flags, *split])]) == 0
    settings = {"num_classes": 2, "patch_size": "32 32 32", "uncertainty_quantile": 0.9}
    assert run_command(train_SemiSAM_O1.main, train_flags(folder / "data", folder / "run", **settings)) == 0
    return folder


@pytest.fixture
def threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model segment by a threshold, so that a prediction is as good as the way there and back."""
    monkeypatch.setattr(trained, "Predictor", Threshold)


def test_predictions_lie_on_each_scans_own_grid(
    cohort: Path, tmp_path: Path, threshold: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--exp", str(cohort / "run"), "--scans", str(cohort / "images"), "--out", str(out), "--device", "cpu"]
    assert run_command(predict.main, [*flags, "--probabilities", "--uncertainty"]) == 0
    assert "unet_3D_best_model.pth (round 1 of 1, best validation Dice 0." in capsys.readouterr().out
    for name in DIRECTIONS:
        written = name.replace(".mhd", ".mha")
        label = sitk.ReadImage(str(out / written))
        truth = sitk.ReadImage(str(cohort / "labels" / name))
        assert label.GetPixelID() == sitk.sitkUInt8
        assert same_grid(label, sitk.ReadImage(str(cohort / "images" / name)))
        assert np.abs(center(label) - center(truth)).max() < 0.5
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(label, truth)
        assert overlap.GetDiceCoefficient() > 0.9
        base, ending = written.split(".", 1)
        probability = sitk.GetArrayFromImage(sitk.ReadImage(str(out / f"{base}_probability1.{ending}")))
        np.testing.assert_array_equal(probability > 0.5, sitk.GetArrayFromImage(label) > 0)
        entropy = sitk.GetArrayFromImage(sitk.ReadImage(str(out / f"{base}_uncertainty.{ending}")))
        assert entropy.min() >= 0 and entropy.max() <= np.log(2) + 1e-5
        if ".nii" in written:
            scan, exported = (nibabel.load(folder / written) for folder in (cohort / "images", out))
            np.testing.assert_allclose(exported.affine, scan.affine, atol=1e-4)
            assert exported.shape == scan.shape
    assert run_command(predict.main, flags) == 2  # nothing is replaced unasked
    assert run_command(predict.main, [*flags, "--overwrite"]) == 0


def test_labels_of_the_cohort_lie_on_each_scans_own_grid(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels"
    flags = ["--exp", str(cohort / "run"), "--cohort", "--out", str(out), "--own_masks", "off", "--device", "cpu"]
    assert run_command(predict.main, flags) == 0
    assert {path.name for path in out.iterdir()} == {"labels.csv", *(n.replace(".mhd", ".mha") for n in DIRECTIONS)}
    for name in DIRECTIONS:
        label = sitk.ReadImage(str(out / name.replace(".mhd", ".mha")))
        assert same_grid(label, sitk.ReadImage(str(cohort / "images" / name)))
    printed = capsys.readouterr().out
    assert "the best by validation Dice: round 0 0." in printed, "trained for four iterations only"
    assert "5 scans: 2 with the label of round 0, 3 predicted by the network" in printed


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_the_cohort_is_written_neither_onto_its_scans_nor_onto_its_masks(
    kind: str, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in (cohort / kind).iterdir()}
    flags = ["--exp", str(cohort / "run"), "--cohort", "--out", str(cohort / kind), "--device", "cpu", "--overwrite"]
    assert run_command(predict.main, flags) == 2
    assert "no flag replaces those" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (cohort / kind).iterdir()} == before


def test_without_its_arguments_a_cohort_is_not_known(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(cohort / "run_MT_1label_1", tmp_path / "run_MT_1label_1")
    (run / "unet_3D" / "args.json").unlink()
    assert run_command(predict.main, ["--exp", str(tmp_path / "run"), "--cohort", "--out", str(tmp_path / "out")]) == 2
    assert "holds no args.json, so the run's scans are not known; use --scans" in capsys.readouterr().err


def test_checkpoint_alone_with_the_preparation_of_its_data(cohort: Path, tmp_path: Path, threshold: None) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes((cohort / "run_MT_1label_1" / "unet_3D" / "unet_3D_best_model.pth").read_bytes())
    scan = cohort / "images" / "oblique.mha"
    flags = [
        "--ckpt",
        str(weights),
        "--scans",
        str(scan),
        "--out",
        str(tmp_path / "out"),
        "--patch_size",
        "32",
        "32",
        "32",
    ]
    assert run_command(predict.main, [*flags, "--preparation", str(cohort / "data" / "preparation.json")]) == 0
    label = sitk.ReadImage(str(tmp_path / "out" / "oblique.mha"))
    assert np.abs(center(label) - center(sitk.ReadImage(str(cohort / "labels" / "oblique.mha")))).max() < 0.5


def test_a_rotated_anisotropic_scan_trained_on_and_predicted_comes_back_in_place(
    cohort: Path, tmp_path: Path, narrow_networks: None
) -> None:
    """Nothing stands in for anything here: prepared, trained on as the template, predicted by the trained network."""
    settings = {"num_classes": 2, "patch_size": "32 32 32", "max_iterations": 150, "val_interval": 50, "log_images": 0}
    flags = train_flags(cohort / "learned", tmp_path / "run", base_lr=0.05, orientations="none", **settings)
    names = ("tilted", "oblique", "sagittal", "axial", "flipped")
    (cohort / "learned").mkdir()
    (cohort / "learned" / "data").symlink_to(cohort / "data" / "data")
    for part, listed in (("train", names[:3]), ("val", names[3:4])):
        (cohort / "learned" / f"{part}.txt").write_text("".join(f"{name}\n" for name in listed))
    assert run_command(train_SemiSAM_O1.main, flags) == 0
    flags = ["--exp", str(tmp_path / "run"), "--scans", str(cohort / "images"), "--out", str(tmp_path / "out")]
    assert run_command(predict.main, [*flags, "--preparation", str(cohort / "data" / "preparation.json")]) == 0
    for name in DIRECTIONS:
        label = sitk.ReadImage(str(tmp_path / "out" / name.replace(".mhd", ".mha")))
        truth = sitk.ReadImage(str(cohort / "labels" / name))
        assert same_grid(label, truth)
        assert np.abs(center(label) - center(truth)).max() < 0.5, name


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "--out"),
        (["--out", "out"], "--exp is missing"),
        (["--out", "out", "--exp", "EXP"], "give either --scans"),
        (["--out", "out", "--exp", "EXP", "--cohort", "--scans", "IMAGES"], "give either --scans"),
        (["--out", "out", "--exp", "EXP", "--cohort", "--uncertainty"], "--uncertainty needs the probability of every"),
        (["--out", "out", "--exp", "EXP", "--scans", "nowhere"], "--scans nowhere is missing"),
        (["--out", "out", "--exp", "nothing", "--scans", "IMAGES"], "--exp nothing"),
        (["--out", "out", "--exp", "EXP", "--scans", "IMAGES", "IMAGES/axial.nii.gz"], "names axial twice"),
    ],
)
def test_unusable_arguments_end_with_2_and_say_why(
    cohort: Path, flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"EXP": str(cohort / "run"), "IMAGES": str(cohort / "images")}
    flags = [flag.replace("EXP", places["EXP"]).replace("IMAGES", places["IMAGES"]) for flag in flags]
    try:
        code = run_command(predict.main, flags)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert sentence in capsys.readouterr().err


def test_a_model_of_resampled_scans_is_scored_on_their_original_grid(
    cohort: Path, threshold: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = [f"--{name}={cohort / 'data' / f'{name}.txt'}" for name in ("train", "val", "test")]
    flags = [
        "--images",
        cohort / "images",
        "--labels",
        cohort / "labels",
        "--orientation",
        "keep",
        *lists,
        tmp_path / "full",
    ]
    assert run_command(prepare_data.main, ["nifti", *map(str, flags)]) == 0, capsys.readouterr().err
    tested = ["--root_path", str(tmp_path / "full"), "--exp", str(cohort / "run")]
    saved = tmp_path / "saved"
    assert run_command(test_baseline.main, [*tested, "--save_pred", str(saved)]) == 0, capsys.readouterr().err
    (name,) = (cohort / "data" / "test.txt").read_text().split()
    assert f"{name}: predicted on the grid of the network, compared on their own" in capsys.readouterr().out
    table = cohort / "run_MT_1label_1" / "unet_3D" / "test_metrics.json"
    overall = json.loads(table.read_text())["summary"]["overall"]
    assert overall["dice"]["mean"] > 0.9
    files = {kind: nibabel.load(saved / f"{name}_{kind}.nii.gz") for kind in ("pred", "lab")}
    assert files["pred"].shape == files["lab"].shape == (30, 26, 16)

    with h5py.File(tmp_path / "full" / "data" / f"{name}.h5", "r+") as file:
        del file.attrs["spacing"]
    assert run_command(test_baseline.main, tested) == 2
    assert "states no spacing" in (told := capsys.readouterr().err)
    assert "--source_spacing" in told
    spacing = ",".join(map(str, SPACING))
    assert run_command(test_baseline.main, [*tested, "--source_spacing", spacing]) == 0, capsys.readouterr().err
    assert json.loads(table.read_text())["summary"]["overall"]["dice"] == overall["dice"]
