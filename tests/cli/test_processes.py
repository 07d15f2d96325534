"""Several processes train one network."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import test_baseline
from real_training import CODE
from semisam_o1.core.errors import run_command
from tiny_cohort import train_flags, write_cohort


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("tiny"))


def test_two_processes_train_and_test_from_any_folder(dataset: Path, tmp_path: Path) -> None:
    def together(command: str, *flags: str) -> None:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
        done = subprocess.run(
            [*launch, str(CODE / command), *flags], cwd=tmp_path, capture_output=True, encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]

    together("train_SemiSAM_O1.py", *train_flags(dataset, tmp_path / "run", labeled_bs=2, batch_size=4))
    folder = tmp_path / "run_MT_1label_1" / "unet_3D"
    assert (folder / "log.txt").read_text().count("round 1 iteration 4/4") == 1

    def flags(out: str) -> list[str]:
        named = {"root_path": dataset, "exp": tmp_path / "run", "device": "cpu", "save_pred": tmp_path / out}
        return [part for key, value in named.items() for part in (f"--{key}", str(value))]

    assert run_command(test_baseline.main, flags("alone")) == 0
    alone = (folder / "test_metrics.csv").read_text()
    together("test_baseline.py", *flags("together"))
    assert (folder / "test_metrics.csv").read_text() == alone
    outputs = [{path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("alone", "together")]
    assert len(outputs[0]) == 6
    assert outputs[0] == outputs[1]


def test_when_one_process_is_killed_the_other_ends_and_says_so(dataset: Path, tmp_path: Path) -> None:
    flags = train_flags(
        dataset, tmp_path / "run", labeled_bs=2, batch_size=4, max_iterations=3000, val_interval=3000, log_images=0
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    metrics = tmp_path / "run_MT_1label_1" / "unet_3D" / "metrics.jsonl"
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(CODE / "train_SemiSAM_O1.py"), *flags],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for _ in range(900):
            if metrics.is_file() and "loss/total" in metrics.read_text():
                break
            time.sleep(0.1)
        ranks[1].kill()
        error = ranks[0].communicate(timeout=60)[1]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[0].returncode == 1
    assert "another process of this run has ended" in error
    assert "the same command with --resume continues" in error
