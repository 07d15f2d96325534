"""An installed copy has the commands and everything that they read; it works from any directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
ENTRY = "import sys; from semisam_o1.command_line import main; main()"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        (source / name).write_bytes((PROJECT / name).read_bytes())
    (source / "code").mkdir()
    (source / "code" / "semisam_o1").symlink_to(PROJECT / "code" / "semisam_o1")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", target]
    subprocess.run([*map(str, pip), str(source)], check=True, capture_output=True)
    return target


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    command = [sys.executable, "-c", ENTRY, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_demo_cohort_is_written_below_the_working_directory(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "demo", "--data_only")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "demo" / "train.txt").is_file()


def test_templates_of_the_report_are_installed(installed: Path) -> None:
    names = {path.name for path in (installed / "semisam_o1" / "report" / "templates").iterdir()}
    assert {"page.html", "style.css", "script.js"} <= names


def test_help_and_unknown_commands(installed: Path, tmp_path: Path) -> None:
    helped = run(installed, tmp_path, "test", "--help")
    assert helped.returncode == 0 and helped.stdout.startswith("usage: semisam-o1 test ")
    unknown = run(installed, tmp_path, "tests")
    assert unknown.returncode == 2 and "usage: semisam-o1 COMMAND" in unknown.stderr


def test_a_missing_run_is_explained_with_the_same_exit_code(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "report", "nothing")
    assert done.returncode == 2 and str(tmp_path / "model") in done.stderr
