"""The tests for GPUs on a CPU that is made to look like a GPU, where that tool lies beside the project."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PRETEND_CUDA = ROOT.parent / "shared" / "tools" / "pretend_cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the tests themselves run on the GPU")
@pytest.mark.skipif(not PRETEND_CUDA.is_dir(), reason="there is no pretended CUDA device beside the project")
def test_what_a_gpu_would_do() -> None:
    paths = [PRETEND_CUDA, ROOT / "code", ROOT / "tests" / "helpers"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "pretended_gpu",
        "tests/test_cuda.py",
        "tests/test_cuda_repeats.py",
        "tests/test_cuda_tuning.py",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
