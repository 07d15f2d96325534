"""The loop: what it keeps, and what stops it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semisam_o1.core.errors import RunError
from semisam_o1.data.sampling.batches import BatchSettings, BatchStream
from semisam_o1.methods import MeanTeacher
from semisam_o1.networks import build_network
from semisam_o1.runs.layout import RunFolder
from semisam_o1.training.after_iteration import AFTER_ITERATION
from semisam_o1.training.stopping import StopRequest
from semisam_o1.training.tracking import Tracker
from semisam_o1.training.trainer import RoundContext, RoundTrainer, TrainingOptions
from volume_source import Source


def make_trainer(
    folder: Path, tracker: Tracker, scores: list[float], spoil: bool = False, precision: str = "fp32"
) -> RoundTrainer:
    student = build_network("unet_3D", 2).initialize(torch.Generator().manual_seed(3))
    image = torch.randn(20, 34, 18, generator=torch.Generator().manual_seed(4))
    if spoil:
        image[:] = float("inf")
    label = (image > 0.3).to(torch.uint8)
    sampling = BatchSettings((16, 32, 16), labeled_bs=1, batch_size=2, length=6, seed=(5,))
    batches = BatchStream(["a"], ["b"], Source(lambda _: image, lambda _: label), sampling)
    options = TrainingOptions(num_rounds=1, max_iterations=6, val_interval=2, save_interval=100, log_images=0)
    context = RoundContext(1, 5, precision, 0, RunFolder(folder, "unet_3D"), tracker, StopRequest())
    answers = iter(scores)
    method = MeanTeacher(student, options)
    return RoundTrainer(student, method, batches, lambda _: [next(answers)], options, context)


@pytest.mark.parametrize(("scores", "best"), [([0.2, 0.6, 0.5], (0.6, 4)), ([0.0, 0.0, 0.0], (0.0, 6))])
def test_the_best_model_by_validation_or_else_the_last(
    scores: list[float], best: tuple[float, int], narrow_networks: None, tmp_path: Path
) -> None:
    with Tracker(RunFolder(tmp_path, "unet_3D")) as tracker:
        trainer = make_trainer(tmp_path, tracker, scores)
        found = trainer.run()
    assert (found.dice, found.iteration) == best
    last = trainer.student.state_dict()
    assert torch.equal(found.weights["final.weight"], last["final.weight"]) == (best[1] == 6)
    improvements = {path.name for path in tmp_path.glob("round1_iter*_dice*.pth")}
    assert improvements == ({"round1_iter2_dice0.2000.pth", "round1_iter4_dice0.6000.pth"} if best[0] else set())


def test_without_validation_the_last_model_is_kept(narrow_networks: None, tmp_path: Path) -> None:
    with Tracker(RunFolder(tmp_path, "unet_3D")) as tracker:
        trainer = make_trainer(tmp_path, tracker, [])
        trainer.validate = None
        found = trainer.run()
    assert (found.dice, found.iteration) == (None, 6)
    assert torch.equal(found.weights["final.weight"], trainer.student.state_dict()["final.weight"])


def test_a_loss_that_is_not_finite_stops_and_names_the_volumes(narrow_networks: None, tmp_path: Path) -> None:
    with Tracker(RunFolder(tmp_path, "unet_3D")) as tracker:
        trainer = make_trainer(tmp_path, tracker, [0.1] * 3, spoil=True)
        with pytest.raises(RunError, match=r"iteration 1: the loss total is not finite; the batch came from a, b"):
            trainer.run()


def test_a_step_of_ones_own_runs_after_every_iteration_and_before_the_state_is_saved(
    narrow_networks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int | None]] = []
    monkeypatch.setitem(AFTER_ITERATION, "mine", lambda trainer, batch: seen.append((trainer.iteration, batch.labeled)))
    with Tracker(RunFolder(tmp_path, "unet_3D")) as tracker:
        make_trainer(tmp_path, tracker, [0.1] * 3).run()
    assert seen == [(iteration, 1) for iteration in range(1, 7)]


def test_in_fp16_a_step_whose_gradient_overflows_is_left_out(narrow_networks: None, tmp_path: Path) -> None:
    with Tracker(RunFolder(tmp_path, "unet_3D")) as tracker:
        trainer = make_trainer(tmp_path, tracker, [0.1] * 3, precision="fp16")
        trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 1e38})
        before = trainer.student.final.weight.clone()
        trainer.train_step(trainer.batches[0])
        assert torch.equal(trainer.student.final.weight, before)
        assert trainer.scaler.get_scale() == pytest.approx(5e37)
        trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 1024.0})
        trainer.train_step(trainer.batches[1])
        assert not torch.equal(trainer.student.final.weight, before)
        trainer.run()
        again = make_trainer(tmp_path, tracker, [0.1] * 3, precision="fp16")
        again.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert again.scaler.state_dict() == trainer.scaler.state_dict() != {}
    assert again.scaler.get_scale() == 1024


def test_a_state_that_states_more_of_the_best_model_is_taken_back(narrow_networks: None, tmp_path: Path) -> None:
    """Those of earlier versions do."""
    with Tracker(RunFolder(tmp_path, "unet_3D")) as tracker:
        make_trainer(tmp_path, tracker, [0.1, 0.3, 0.2]).run()
        state = torch.load(tmp_path / "state.pth", weights_only=True)
        state["best"] |= {"decision": None, "reliability": None}
        again = make_trainer(tmp_path, tracker, [])
        again.load_state_dict(state)
    assert (again.best.dice, again.best.iteration) == (0.3, 4)
