"""A run is found by its name or its folder in every command; what was edited or damaged in it is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import predict
import report
import suggest_template
import test_baseline
import train_SemiSAM_O1
from semisam_o1.commands import testing
from semisam_o1.core.errors import run_command
from semisam_o1.runs import layout
from tiny_cohort import train_flags, write_cohort

Main = Callable[[list[str]], None]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, 'data', and a run of one round on it, 'run'."""
    folder = tmp_path_factory.mktemp("named")
    assert run_command(train_SemiSAM_O1.main, train_flags(write_cohort(folder / "data"), folder / "run")) == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, in which 'run' is the name of an experiment."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(layout, "MODEL_ROOT", tmp_path)
    run = run_folder(tmp_path)
    edit(run, lambda arguments: arguments | {"root_path": str(tmp_path / "data"), "exp": "run"})
    return tmp_path


def run_folder(folder: Path) -> Path:
    return folder / "run_MT_1label_1" / "unet_3D"


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((run / "args.json").read_text())
    (run / "args.json").write_text(json.dumps(content | {"arguments": change(content["arguments"])}))


def commands(folder: Path, run: str | Path) -> dict[str, tuple[Main, list[str]]]:
    """Return every command that takes a run, with its arguments."""
    out, root = str(folder / "out"), str(folder / "data")
    return {
        "cohort": (predict.main, ["--exp", str(run), "--cohort", "--out", out, "--device", "cpu"]),
        "predict": (predict.main, ["--exp", str(run), "--scans", root, "--out", out, "--device", "cpu"]),
        "test": (test_baseline.main, ["--exp", str(run), "--root_path", root, "--device", "cpu"]),
        "report": (report.main, [str(run), "--cases", "0"]),
        "suggest": (suggest_template.main, ["--run", str(run), "--device", "cpu"]),
    }


@pytest.mark.parametrize("command", ["cohort", "test", "report", "suggest"])
def test_a_run_is_named_by_its_folder_or_its_experiment(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    shutil.copytree(run_folder(folder), folder / "moved")
    for place in ("run", run_folder(folder), run_folder(folder).relative_to(folder), "moved"):
        main, flags = commands(folder, place)[command]
        assert run_command(main, flags) == 0, (place, capsys.readouterr().err)
        shutil.rmtree(folder / "out", ignore_errors=True)


@pytest.mark.parametrize("command", ["cohort", "report", "suggest"])
def test_a_run_that_stopped_in_round_1_is_found_by_its_name(command: str, folder: Path) -> None:
    run = run_folder(folder)
    for path in (*run.glob("*.pth"), *run.glob("pseudo_labels/round1*")):
        path.unlink()
    main, flags = commands(folder, "run")[command]
    assert run_command(main, flags) == 0


CHANGES = {
    "two sides": lambda arguments: arguments | {"patch_size": [32, 48]},
    "a word": lambda arguments: arguments | {"num_classes": "three"},
    "negative": lambda arguments: arguments | {"num_classes": -1},
    "a list": lambda arguments: [arguments],
    "no text": lambda arguments: arguments | {"root_path": 3},
    "another network": lambda arguments: arguments | {"model": "unet_4D"},
}


@pytest.mark.parametrize("command", ["cohort", "predict", "test", "report", "suggest"])
@pytest.mark.parametrize("change", CHANGES)
def test_args_json_that_was_edited_is_named(
    change: str, command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run_folder(folder), CHANGES[change])
    main, flags = commands(folder, run_folder(folder))[command]
    assert run_command(main, flags) == 2
    error = capsys.readouterr().err
    assert "args.json" in error and "Traceback" not in error
    assert not (folder / "out").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"arguments": {}}'])
@pytest.mark.parametrize("command", ["cohort", "report", "suggest"])
def test_args_json_without_a_run(command: str, content: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_folder(folder) / "args.json").write_text(content)
    main, flags = commands(folder, run_folder(folder))[command]
    assert run_command(main, flags) == 2
    assert "args.json" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["cohort", "report", "suggest"])
@pytest.mark.parametrize("round_", [0, 1])
def test_damaged_labels_of_a_round_are_named(
    round_: int, command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_folder(folder) / "pseudo_labels" / f"round{round_}.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    main, flags = commands(folder, "run")[command]
    assert run_command(main, flags) == 2
    assert f"round{round_}.h5" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["cohort", "report", "suggest"])
def test_a_dataset_that_moved_is_named_by_root_path(command: str, folder: Path) -> None:
    (folder / "data").rename(folder / "elsewhere")
    main, flags = commands(folder, "run")[command]
    assert run_command(main, flags) == 2
    assert run_command(main, [*flags, "--root_path", str(folder / "elsewhere")]) == 0


def test_a_backbone_chooses_the_run_to_suggest_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "run_MT_1label_1", folder / "run_UAMT_1label_1")
    main, flags = commands(folder, "run")["suggest"]
    assert run_command(main, flags) == 2
    assert "choose with --backbone" in capsys.readouterr().err
    assert run_command(main, [*flags, "--backbone", "mt"]) == 0
    assert run_command(main, [str(folder / "data"), "--backbone", "mt"]) == 2
    assert "belong to --run" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["cohort", "predict", "test"])
def test_the_mask_is_no_image(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main, flags = commands(folder, "run")[command]
    assert run_command(main, [*flags, "--image_key", "label"]) == 2
    assert "--image_key label names the masks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--exp", "../../outside"], "--exp must name a folder below model/"),
        (["--image_key", "label"], "names the masks"),
    ],
)
def test_training_refuses_what_it_used_to_take_in_silence(
    changes: list[str], sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(train_SemiSAM_O1.main, [*train_flags(folder / "data", folder / "new"), *changes]) == 2
    assert sentence in capsys.readouterr().err


def test_a_checkpoint_beside_the_name_of_a_run_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main, flags = commands(folder, "another")["test"]
    assert run_command(main, [*flags, "--ckpt", str(run_folder(folder) / "round1_best.pth")]) == 0
    assert "--exp another chooses nothing beside it" in capsys.readouterr().out


@pytest.mark.parametrize(("test_list", "use"), [("train.txt", "trains on 6 of the 6"), ("val.txt", "selects the")])
def test_testing_on_scans_of_the_training_is_told(
    test_list: str, use: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, flags = commands(folder, "run")["test"]
    assert run_command(main, [*flags, "--test_list", test_list]) == 0
    assert f"{test_list} {use}" in (printed := capsys.readouterr().out) and "not those of unseen scans" in printed


def test_results_of_a_test_stay_until_new_ones_are_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main, flags = commands(folder, "run")["test"]
    assert run_command(main, flags) == 0
    metrics = run_folder(folder) / "test_metrics.json"
    before = metrics.read_text()

    def broken_pipe(*_: object) -> str:
        raise BrokenPipeError

    with monkeypatch.context() as patch:
        patch.setattr(testing, "table", broken_pipe)
        assert run_command(main, [*flags, "--stride_xy", "8"]) == 1
    assert json.loads(metrics.read_text())["stride"][0] == 8
    assert metrics.with_name("test_metrics_1.json").read_text() == before
    with monkeypatch.context() as patch:
        patch.setattr(testing, "write_csv", broken_pipe)
        assert run_command(main, [*flags, "--stride_xy", "4"]) == 1
    assert json.loads(metrics.read_text())["stride"][0] == 8, "not renamed away"


def test_outputs_of_tests_and_reports_are_checked_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").touch()
    for command, flag in (("test", "--save_pred"), ("report", "--out")):
        main, flags = commands(folder, "run")[command]
        assert run_command(main, [*flags, flag, str(folder / "file" / "below")]) == 2
        assert flag in capsys.readouterr().err
    main, flags = commands(folder, "run")["report"]
    assert run_command(main, [*flags, "--out", str(folder / "data")]) == 2
    assert run_command(main, [*flags, "--out", str(folder / "data" / "data" / "train0.h5")]) == 2
    assert not (run_folder(folder) / "test_metrics.json").exists()
