"""What the documents tell people to type and to write is run here, on scans small enough."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from image_files import make_decathlon, write, write_dicom, write_segmentation
from semisam_o1.commands import preparation
from semisam_o1.commands.export import write_image
from semisam_o1.core.errors import run_command
from semisam_o1.data.dataset.volumes import Geometry, Volume, write_volume
from semisam_o1.features.extract import FEATURE_SETS
from semisam_o1.methods import METHODS
from semisam_o1.networks import NETWORKS
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.run import train
from semisam_o1.propagation import PROPAGATIONS
from semisam_o1.runs import layout
from semisam_o1.training.after_iteration import AFTER_ITERATION
from standing_in import Threshold, write_ball, write_run
from tiny_cohort import write_cohort

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Their commands make tables from real scans and take hours; their flags are checked below like all others.
MEASURED = {"accuracy.md", "performance.md", "reliability.md"}
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+?) -->\n)?```(?P<kind>sh|python)\n(?P<text>.*?)```", re.DOTALL)
SHORT = shlex.split(
    "--max_iterations 2 --num_rounds 1 --patch_size 32 16 16 --device cpu --knn_k 2 --backbone mt --val_interval 2 "
    "--uncertainty_quantile 0.6"
)
# The settings that use the examples of the extension guide, in their order.
EXAMPLES = (
    {"backbone": "entropy"},
    {"features": "histogram", "propagation": "prototype"},
    {"model": "plain"},
    {"propagation": "copy"},
    {},
)


def blocks(path: Path, kind: str) -> list[str]:
    """Return the blocks of a document that are to be run, in order."""
    found = BLOCK.finditer(path.read_text(encoding="utf-8"))
    return [match["text"] for match in found if match["kind"] == kind and not match["why"]]


def commands(path: Path) -> list[list[str]]:
    text = "".join(blocks(path, "sh")).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]


def scan(seed: int, size: int = 22) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label = np.zeros((size + 2, size, size - 2), np.uint8)
    label[7:15, 6:14, 5:12] = 1
    label[15:18, 6:14, 5:12] = 2
    return 100 * label + generator.normal(50, 9, label.shape), label


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the documents speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layout, "MODEL_ROOT", tmp_path / "model")
    monkeypatch.setattr(preparation, "STANDARD_LA", ROOT / "data" / "LA")
    (tmp_path / "code").symlink_to(ROOT / "code")
    geometry = Geometry(known=True)
    for index in range(1, 9):
        image, label = scan(index)
        for folder in ("scans", "new_scans")[: 1 + (index == 8)]:
            write_image(Path(folder, f"patient_{index:02d}.nii.gz"), image.astype(np.float32), geometry)
        if index < 5:
            write_image(Path("masks", f"patient_{index:02d}.nii.gz"), (label > 0).astype(np.uint8), geometry)
    image, label = scan(1)
    write_image(Path("slicer", "patient_01.nrrd"), image.astype(np.float32), geometry)
    write_image(Path("slicer", "patient_02.nrrd"), scan(2)[0].astype(np.float32), geometry)
    write_segmentation(Path("slicer", "patient_01.seg.nrrd"), label, [("Liver", 1, 0), ("Tumor", 2, 0)])
    label[..., [z for z in range(label.shape[2]) if z % 4]] = 0
    write_image(Path("sparse_masks", "patient_01.nii.gz"), (label > 0).astype(np.uint8), geometry)
    for index in range(4):
        image, label = scan(index, 30)
        write_dicom(Path("ct", f"p{index}"), (image - 100).astype(np.int16), f"1.2.3.{index + 5}")
        itk = Geometry((0.7, 0.7, 2.0), (-5.0, 10.0, 30.0), known=True)
        write_image(Path("ct_masks", f"p{index}.nrrd"), (label == 1).astype(np.uint8), itk)
        case = Path("MICCAI_BraTS_2019", "HGG", f"BraTS_{index}")
        write(case / f"{case.name}_flair.nii.gz", (image * (image > 20)).astype(np.int16))
        write(case / f"{case.name}_seg.nii.gz", label * 2)
    make_decathlon(Path("Task04_Hippocampus"), 1)
    for index in range(2):
        for channel in range(2):
            path = Path("Dataset001_Heart", "imagesTr", f"heart_{index}_{channel:04d}.nii.gz")
            write(path, scan(index)[0].astype(np.float32))
        write(Path("Dataset001_Heart", "labelsTr", f"heart_{index}.nii.gz"), scan(index)[1])
    Path("Dataset001_Heart", "dataset.json").write_text('{"channel_names": {"0": "T1"}, "labels": {"background": 0}}')
    for name in (ROOT / "data" / "LA" / "train.txt").read_text().split()[:2]:
        write_volume(Path("2018LA_Seg_Training_Set", name, "mri_norm2.h5"), Volume(name, *scan(3)))
    Path("downloaded.pth").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.name not in MEASURED and commands(path)], ids=lambda path: path.name
)
def test_every_command_runs(
    document: Path, desk: Path, narrow_networks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands(document):
        assert words[0] == "python" and words[1].startswith("code/"), f"mark {words} as not run, and why"
        command = importlib.import_module(Path(words[1]).stem)
        flags = words[2:]
        if command.__name__ == "train_SemiSAM_O1":
            flags += SHORT
        if "downloaded.pth" in flags:
            best = next(Path("model").glob("*/unet_3D/unet_3D_best_model.pth"))
            Path("downloaded.pth").write_bytes(best.read_bytes())
            flags[flags.index("--patch_size") + 1 : flags.index("--patch_size") + 4] = ["32", "16", "16"]
        assert run_command(command.main, flags) == 0, f"{words}\n{capsys.readouterr().err}"


def test_links_and_pictures_of_the_documents_exist() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_picture_of_the_code_shows_every_module() -> None:
    picture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    package = ROOT / "code" / "semisam_o1"
    for path in package.rglob("*.py"):
        room = path.parent.relative_to(package).as_posix()
        if path.name != "__init__.py" and room != ".":
            shown = picture.split(f"    {room}/ ")[1].split("/  ")[0]
            assert re.search(rf"\b{path.stem}\b", shown), f"docs/architecture.md does not show {room}/{path.name}"


def test_messages_that_troubleshooting_quotes_exist() -> None:
    messages = []
    for path in (ROOT / "code").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            messages.append("".join(str(part.value) for part in parts if isinstance(part, ast.Constant)))
    code = "\n".join(messages)
    rows = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    for quoted in re.findall(r'"([^"]+)"', "\n".join(row.split(" | ")[0] for row in rows)):
        assert all(part.strip() in code for part in quoted.split("…")), f"no message contains {quoted!r}"


def test_flags_that_the_documents_name_exist() -> None:
    known = set()
    scripts = (path for folder in ("code", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))
    for path in scripts:
        known |= set(re.findall(r"--([A-Za-z_]+)", path.read_text(encoding="utf-8")))
        known |= set(re.findall(r"^    ([A-Za-z_]+): .* = option\(", path.read_text(encoding="utf-8"), re.MULTILINE))
    known |= {"help", "nproc_per_node", "logdir", "check", "requeue", "signal"}  # of other programs
    for path in DOCUMENTS:
        named = set(re.findall(r"[` ]--([A-Za-z_]+)", path.read_text(encoding="utf-8")))
        assert named <= known, f"{path.name}: {named - known}"


@pytest.fixture
def registries() -> None:
    """Take what an example registers out again."""
    kept = [(registry, dict(registry)) for registry in (METHODS, FEATURE_SETS, NETWORKS, PROPAGATIONS, AFTER_ITERATION)]
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_of_the_extension_guide_train(
    number: int, registries: None, narrow_networks: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = blocks(ROOT / "docs" / "extending.md", "python")[number]
    exec(compile(example, f"example {number}", "exec"), {"__name__": "example"})
    usual = {"backbone": "mt", "propagation": "atlas", "features": "builtin", "num_classes": 3, "device": "cpu"}
    short = {"patch_size": (32, 16, 16), "max_iterations": 2, "num_rounds": 1, "val_interval": 2, "knn_k": 2}
    settings = usual | short | EXAMPLES[number]
    train(TrainConfig(root_path=write_cohort(tmp_path / "data"), exp=str(tmp_path / "run"), **settings))
    assert "round 1: foreground" in capsys.readouterr().out
    if "log_gradient_norm" in AFTER_ITERATION:
        metrics = next(tmp_path.glob("run_*/unet_3D/metrics.jsonl")).read_text()
        assert "train/gradient_norm" in metrics


def test_python_example_of_the_readme_starts_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[TrainConfig] = []
    monkeypatch.setattr("semisam_o1.pipeline.run.train", started.append)
    training, _ = blocks(ROOT / "README.md", "python")
    exec(compile(training, "README", "exec"), {"__name__": "example"})
    assert [config.recipe for config in started] == ["best"]


def test_python_example_of_the_readme_segments_a_scan(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("semisam_o1.commands.trained.Predictor", Threshold)
    monkeypatch.setattr("semisam_o1.runs.layout.MODEL_ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path).parent.rename(tmp_path / "mine_MT_1label_1")
    write_ball(tmp_path / "new_scans" / "patient_02.nii.gz", 1.5)
    _, segmenting = blocks(ROOT / "README.md", "python")
    exec(compile(segmenting, "README", "exec"), {"__name__": "example"})
    assert re.match(r"\(24, 24, 24\) \(0\.\d+,\) \(1\.5, 1\.5, 1\.5\) \(", capsys.readouterr().out)
