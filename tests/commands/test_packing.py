"""A trained network in one file: the same predictions anywhere, nothing of the machine in it, and no trust in it."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import export
import predict
from malicious import Malicious
from semisam_o1.commands.api import load_run
from semisam_o1.core.errors import InputError, run_command
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.runs.bundle import CARD, DESCRIPTION, WEIGHTS
from semisam_o1.runs.find import find_trained
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, write_round
from standing_in import SEEN, write_ball, write_run

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path, exp="mine", backbone="mt", labeled_num=1)


@pytest.fixture
def bundle(run: Path, tmp_path: Path) -> Path:
    assert run_command(export.main, [str(run), str(tmp_path / "model.zip"), "--onnx", "off"]) == 0
    return tmp_path / "model.zip"


def records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_a_packed_network_predicts_as_the_run_does(run: Path, bundle: Path, tmp_path: Path) -> None:
    write_ball(tmp_path / "scans" / "a.nii.gz", 1.5)
    expected = load_run(str(run), device="cpu").predict(tmp_path / "scans" / "a.nii.gz")
    moved = tmp_path / "elsewhere" / "network.zip"
    moved.parent.mkdir()
    bundle.rename(moved)
    found = load_run(str(moved), device="cpu").predict(tmp_path / "scans" / "a.nii.gz")
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    assert found.warnings == expected.warnings, "the scans that the run saw are known"
    flags = ["--exp", str(moved), "--scans", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert run_command(predict.main, flags) == 0
    assert (tmp_path / "out" / "a.nii.gz").is_file()


def test_the_shifted_decision_of_a_run_is_packed(run: Path, tmp_path: Path) -> None:
    folder = RunFolder(run, "unet_3D")
    first = RoundRecord(0, 0.1, None, (), 0.0, None, None, 1.0)
    trained = RoundRecord(1, 0.1, 0.1, (), 0.0, None, None, 1.0, 0.8, 2, (0.0, 1.5), 0.01)
    for record in (first, trained):
        write_round(folder, PseudoLabels({"a": np.zeros((4, 4, 4), np.uint8)}), record)
    assert run_command(export.main, [str(run), str(tmp_path / "model.zip"), "--onnx", "off"]) == 0
    model = load_run(str(tmp_path / "model.zip"), device="cpu").model
    assert model.predictor.bias == load_run(str(run), device="cpu").model.predictor.bias == (0.0, 1.5)
    card = records(tmp_path / "model.zip")[CARD]
    assert b"- quality: validation Dice 0.800" in card and b"are shifted by 0.000, 1.500" in card


def test_it_holds_a_card_and_no_folder_of_the_machine(bundle: Path, tmp_path: Path) -> None:
    content = records(bundle)
    assert set(content) == {CARD, DESCRIPTION, WEIGHTS}
    assert str(tmp_path) not in (content[CARD] + content[DESCRIPTION]).decode()
    description = json.loads(content[DESCRIPTION])
    assert description["scans"] == SEEN and description["arguments"]["exp"] == "mine"
    assert content[CARD].startswith(b"# mine\n") and b"- quality: not measured" in content[CARD]


def test_flags_of_predictions_are_none_of_its_own(run: Path, tmp_path: Path) -> None:
    for flag in (["--stride_xy", "8"], ["--precision", "bf16"], ["--exp", "x"], ["--device", "cpu"], ["--zooms", "1"]):
        with pytest.raises(SystemExit):
            export.main([str(run), str(tmp_path / "model.zip"), *flag])


def test_only_what_was_packed_here_is_replaced(
    run: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bundle.read_bytes()
    assert run_command(export.main, [str(run), str(bundle), "--onnx", "off"]) == 2
    assert "model.zip exists" in capsys.readouterr().err
    assert run_command(export.main, [str(run), str(bundle), "--onnx", "off", "--overwrite"]) == 0
    assert bundle.read_bytes() == before, "the same network is the same file"
    rewrite(tmp_path / "photos.zip", {"a.jpg": b"photo"})
    assert run_command(export.main, [str(run), str(tmp_path / "photos.zip"), "--onnx", "off", "--overwrite"]) == 2
    assert records(tmp_path / "photos.zip") == {"a.jpg": b"photo"}
    assert run_command(export.main, [str(run), str(tmp_path / "model.txt")]) == 2
    assert run_command(export.main, ["nothing", str(tmp_path / "m.zip")]) == 2
    assert run_command(predict.main, ["--exp", str(bundle), "--cohort", "--out", str(tmp_path / "out")]) == 2
    assert "holds a network and no scans" in capsys.readouterr().err


def changed(**entries: object) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def change(content: dict[str, bytes]) -> dict[str, bytes]:
        return content | {DESCRIPTION: json.dumps(json.loads(content[DESCRIPTION]) | entries).encode()}

    return change


def saved(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


HOSTILE: dict[str, Callable[[dict[str, bytes]], dict[str, bytes]]] = {
    "code in the weights": lambda content: content | {WEIGHTS: saved({"w": Malicious()})},
    "code in weights of the old format": lambda content: (
        content | {WEIGHTS: saved({"w": Malicious()}, _use_new_zipfile_serialization=False)}
    ),
    "a bare pickle": lambda content: content | {WEIGHTS: pickle.dumps(Malicious())},
    "weights of another network": lambda content: content | {WEIGHTS: saved({"w": torch.zeros(3)})},
    "weights cut off": lambda content: content | {WEIGHTS: content[WEIGHTS][:-900]},
    "no weights": lambda content: {key: data for key, data in content.items() if key != WEIGHTS},
    "no description": lambda content: {key: data for key, data in content.items() if key != DESCRIPTION},
    "a description that is no JSON": lambda content: content | {DESCRIPTION: b"\xff\xfe{"},
    "a list as description": lambda content: content | {DESCRIPTION: b"[]"},
    "a description nested deeply": lambda content: content | {DESCRIPTION: b"[" * 100_000},
    "a description of megabytes": lambda content: content | {DESCRIPTION: b" " * 2**21 + content[DESCRIPTION]},
    "another format": changed(format=99),
    "arguments that are a text": changed(arguments="x"),
    "a patch of two numbers": changed(arguments={"patch_size": [32, 48]}),
    "classes without end": changed(arguments={"num_classes": 10**9}),
    "an unknown network": changed(arguments={"model": "../../unet"}),
    "scans without ranges": changed(scans={"spacing": "wide"}),
    "sizes that no scan has": changed(arguments={"zooms": [1, 3]}),
    "a decision for other classes": changed(training={"decision_bias": [0.0, 1.0, 2.0]}),
    "a decision that is a text": changed(training={"decision_bias": "foreground"}),
    "levels of another network": changed(arguments={"network_levels": "3x3x3/9x9x9"}),
    "a preparation of another kind": changed(preparation={"orientation": "RAS", "intensity": 7}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_and_runs_nothing(
    case: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rewrite(bundle, HOSTILE[case](records(bundle)))
    write_ball(tmp_path / "a.nii.gz", 2.0)
    flags = ["--exp", str(bundle), "--scans", str(tmp_path / "a.nii.gz"), "--out", str(tmp_path / "out")]
    assert run_command(predict.main, [*flags, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert str(bundle) in error and "Traceback" not in error
    assert not (tmp_path / "pwned").exists() and not (tmp_path / "out").exists()


def test_names_that_leave_the_folder_and_compressed_records_are_not_unpacked(bundle: Path, tmp_path: Path) -> None:
    content = records(bundle)
    absolute = tmp_path / "absolute.txt"
    rewrite(bundle, content | {"../evil.txt": b"x", str(absolute): b"x"})
    before = sorted(tmp_path.parent.iterdir())
    assert find_trained(str(bundle)).arguments["exp"] == "mine"
    load_run(str(bundle), device="cpu")
    assert sorted(tmp_path.parent.iterdir()) == before
    assert not absolute.exists()
    rewrite(bundle, content, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"no plain record model\.json"):
        find_trained(str(bundle))
    bundle.write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(InputError, match="cannot be read as an archive"):
        find_trained(str(bundle))
    with pytest.raises(InputError, match="is missing"):
        find_trained(str(tmp_path / "gone.zip"))


def test_onnx_computes_the_same_probabilities(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed (pip install onnx onnxruntime)")
    assert run_command(export.main, [str(run), str(tmp_path / "model.zip"), "--onnx"]) == 0
    assert (tmp_path / "model.onnx").is_file(), "written only where the probabilities agree to 1e-4"
