"""On a CPU nothing is tuned."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from semisam_o1.networks.kernels import Kernels
from semisam_o1.pipeline import kernels
from semisam_o1.pipeline.config import TrainConfig


def test_nothing_is_tried_or_written_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TrainingTrial", "write_kernels", "write_json"):
        monkeypatch.setattr(kernels, name, lambda *_: pytest.fail("called"))
    found_on_a_gpu = {"kernels": {"layout": "channels_last", "norm": "moments", "joined": False, "benchmark": False}}
    for previous in (None, found_on_a_gpu):
        checked = SimpleNamespace(device=torch.device("cpu"), previous=previous)
        assert kernels.choose_kernels(TrainConfig(), checked, print) == Kernels()
