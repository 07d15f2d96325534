"""The whole method: features, round 0, then rounds of training, relabeling and refinement."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from semisam_o1.core import distributed
from semisam_o1.core.atomic_io import write_json, write_text
from semisam_o1.core.seeding import derive_seed, torch_generator
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.sampling.batches import BatchSettings, BatchStream
from semisam_o1.data.sampling.patches import ORIENTATIONS
from semisam_o1.data.sampling.store import PseudoLabeledVolumes, VolumeStore, choose_cache
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.evaluation.predictor import Predictor, mean_dice
from semisam_o1.features.cohort_access import CohortAccess
from semisam_o1.features.extract import FeatureSet, extract_features
from semisam_o1.methods import METHODS
from semisam_o1.networks import build_network
from semisam_o1.pipeline import console
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.preflight import Checked, Start, begin, check_run, running, summary
from semisam_o1.pipeline.pseudo_labeling import CohortLabels
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.lock import RunLock
from semisam_o1.runs.records import RoundRecord, best_round, load_labels, read_records, write_round
from semisam_o1.runs.results import read_steps
from semisam_o1.training import checkpoint
from semisam_o1.training.stopping import StopRequest
from semisam_o1.training.tracking import Tracker
from semisam_o1.training.trainer import Best, RoundSettings, RoundTrainer


def train(config: TrainConfig) -> None:
    """Run the method from one labeled volume to trained models and final labels.

    Raises:
        InputError: if the arguments or the dataset cannot be used; nothing has been computed then.
        Interrupted: if a stop was asked for; the state is saved.
        RunError: if something goes wrong later on.
    """
    folder = RunFolder.of(config.exp, config.backbone, config.labeled_num, config.model)
    with StopRequest(config.max_time) as stop:
        checked = check_run(config, folder, stop)
        if config.check_only:
            if distributed.is_main():
                print(summary(config, checked))
            return
        with RunLock(folder.path) as lock:
            start = begin(config, checked, lock)
            stop.kept = "what is finished is kept"
            with running(), Tracker(folder, start.position) as tracker:
                run = Run(config, folder, checked.device, checked.precision, checked.cohort, tracker, stop)
                run.go(start, checked)


@dataclasses.dataclass
class Run:
    """One run, stage by stage."""

    config: TrainConfig
    folder: RunFolder
    device: torch.device
    precision: str
    cohort: Cohort
    tracker: Tracker
    stop: StopRequest

    def __post_init__(self) -> None:
        """Load the volumes and make PyTorch repeatable."""
        torch.backends.cudnn.deterministic = bool(self.config.deterministic)
        torch.backends.cudnn.benchmark = not self.config.deterministic
        place, reason = choose_cache(self.config.cache, self.device, self.cohort.nbytes)
        self.tracker.say(
            console.opening(self.config, self.cohort, self.device, self.precision, place, reason, self.folder.path)
        )
        self.store = VolumeStore(self.config.dataset, [*self.cohort.train, *self.cohort.validation], place, self.device)

    def go(self, start: Start, checked: Checked) -> None:
        """Do every stage that is not done yet."""
        for remark in start.remarks:
            self.tracker.say(remark)
        self.extract(checked.take_feature_set())
        if start.done is None:
            self.propagate()
        self.augmentation = self.labels.augmentation()
        first = 1 if start.done is None else start.done + 1
        for round_ in range(first, self.config.num_rounds + 1):
            if distributed.any_rank(self.stop.requested):
                raise self.stop.interruption(f"round {round_ - 1} is finished")
            started = time.monotonic()
            best = self.train_round(round_, start.state if round_ == first else None)
            pseudo = self.relabel(best)
            self.finish_round(round_, best, pseudo, time.monotonic() - started)
        self.summarize()

    def extract(self, feature_set: FeatureSet) -> None:
        """Get the features of all training volumes, computed or found on disk."""
        started = time.monotonic()
        cache = ArrayCache(self.config.root_path / "features", self.folder.cache)
        hashes = {name: self.cohort.info[name].hash for name in self.cohort.train}
        features, computed = extract_features(self.image, hashes, feature_set, cache, self.stop.progress)
        how = f"{computed} computed in {time.monotonic() - started:.1f} s" if computed else "nothing extracted"
        self.tracker.say(f"features ({feature_set.key}): {len(features) - computed} found on disk, {how}")
        access = CohortAccess(self.cohort, self.store, features, feature_set.key, self.config.num_classes)
        self.labels = CohortLabels(self.config, access, cache, self.device, self.stop.progress, self.tracker.say)

    def propagate(self) -> None:
        """Round 0: spread the labels of the labeled volumes."""
        started = time.monotonic()
        pseudo = self.labels.propagate()
        self.write_labels(0, pseudo, time.monotonic() - started)

    def train_round(self, round_: int, state: dict[str, Any] | None) -> Best:
        """Train a network from scratch on the labels of the round before, or go on with ``state``."""
        config = self.config
        seed = derive_seed(config.seed, round_)
        student = build_network(config.model, config.num_classes, generator=torch_generator(seed)).to(self.device)
        if config.warm_start and round_ > 1:
            checkpoint.load_weights(student, self.folder.round_best(round_ - 1))
        method = METHODS[config.backbone](student, config, seed)
        settings = RoundSettings(
            round_=round_,
            rounds=config.num_rounds,
            max_iterations=config.max_iterations,
            precision=self.precision,
            val_interval=config.val_interval,
            save_interval=config.save_interval,
            state_interval=config.state_interval,
            log_images=config.log_images,
            num_workers=None if self.store.in_memory else config.num_workers,
            seed=seed,
        )
        batches = self._batches(round_, seed)
        trainer = RoundTrainer(student, method, batches, settings, self.validate, self.folder, self.tracker, self.stop)
        if state is not None:
            trainer.load_state_dict(state)
            self.tracker.say(f"round {round_} goes on after iteration {trainer.iteration}")
        return trainer.run()

    def validate(self, network: nn.Module) -> list[float]:
        """Return the validation Dice of every foreground class."""
        return mean_dice(
            self._predictor(network), self.cohort.validation, self.store.image, self.store.label,
            self.config.num_classes,
        )  # fmt: skip

    def relabel(self, best: Best) -> PseudoLabels:
        """Label the unlabeled volumes with the best model of the round."""
        network = build_network(self.config.model, self.config.num_classes)
        network.load_state_dict(best.weights)
        return self.labels.relabel(self._predictor(network.to(self.device)))

    def finish_round(self, round_: int, best: Best, pseudo: PseudoLabels, seconds: float) -> None:
        """Keep the round's model and labels; the best round's model becomes the run's."""
        if distributed.is_main():
            checkpoint.save(best.weights, self.folder.round_best(round_))
            earlier = [record for record in read_records(self.folder) if record.trained and record.round < round_]
            if not earlier or best.dice > best_round(earlier).validation_dice:
                checkpoint.save(best.weights, self.folder.best_model)
        self.write_labels(round_, pseudo, seconds, best)

    def write_labels(self, round_: int, pseudo: PseudoLabels, seconds: float, best: Best | None = None) -> None:
        """Score (where true labels are known), write and log the labels of a round: this finishes it."""
        if distributed.is_main():
            record = self.score(round_, pseudo, seconds, best)
            figures = {
                f"pseudo_labels/{key}": value
                for key in ("foreground_ratio", "uncertainty", "refined_share", "pseudo_dice")
                if (value := getattr(record, key)) is not None
            }
            for c, score in enumerate(record.pseudo_dice_per_class or (), start=1):
                figures[f"pseudo_labels/dice_class{c}"] = score
            # The labels last: with them the round counts as finished, and what was logged without them is dropped.
            self.tracker.log(round_ * self.config.max_iterations, figures, round=round_)
            self.tracker.sync()
            write_round(self.folder, pseudo, record)
            self.tracker.say(record.describe())
        distributed.barrier()

    def score(self, round_: int, pseudo: PseudoLabels, seconds: float, best: Best | None) -> RoundRecord:
        """Return the figures of a round; the Dice of every volume with a true label is added to ``pseudo``."""
        names, per_class = self.cohort.unlabeled, []
        if self.config.labels_for_diagnosis:
            for name in names:
                if self.cohort.info[name].label_hash:
                    scores = dice_per_class(pseudo.labels[name], self.true_label(name), self.config.num_classes)
                    per_class.append(scores)
                    pseudo.dice[name] = float(np.mean(scores))
        return RoundRecord(
            round=round_,
            foreground_ratio=float(np.mean([float((pseudo.labels[name] > 0).mean()) for name in names])),
            uncertainty=float(np.mean(list(pseudo.uncertainty.values()))) if pseudo.uncertainty else None,
            refined=tuple(pseudo.refined),
            refined_share=len(pseudo.refined) / len(names),
            pseudo_dice=float(np.mean(list(pseudo.dice.values()))) if pseudo.dice else None,
            pseudo_dice_per_class=tuple(np.mean(per_class, axis=0).tolist()) if per_class else None,
            seconds=seconds,
            validation_dice=best.dice if best else None,
            best_iteration=best.iteration if best else None,
        )

    def summarize(self) -> None:
        """Write the summary and the figures, and say how to test."""
        if not distributed.is_main():
            return
        from semisam_o1.drawing.curves import draw_curves  # matplotlib takes a second to import
        from semisam_o1.drawing.figures import draw_rounds

        records = read_records(self.folder)
        best = best_round(records)
        lines = [record.describe() for record in records]
        lines.append(f"best: round {best.round}, validation Dice {best.validation_dice:.4f}: {self.folder.best_model}")
        write_text(self.folder.summary, "\n".join(lines) + "\n")
        write_json(self.folder.tracking, [record.to_json() for record in records])
        draw_curves(read_steps(self.folder.metrics), self.folder.figures / "curves.png")
        shown = self.cohort.unlabeled[:: max(1, len(self.cohort.unlabeled) // 4)][:4]
        rounds = [load_labels(self.folder.pseudo_labels(record.round), shown) for record in records]
        diagnosis = self.config.labels_for_diagnosis
        rows = [
            (name, self.image(name), self.true_label(name) if diagnosis and self.cohort.info[name].label_hash else None,
             [labels[name] for labels in rounds])
            for name in shown
        ]  # fmt: skip
        draw_rounds(
            rows,
            [f"round {record.round}" for record in records],
            self.folder.figures / "pseudo_labels.png",
        )
        self.tracker.say(console.closing(records))
        self.tracker.say(lines[-1])
        self.tracker.say(console.next_commands(self.config))

    def image(self, name: str) -> np.ndarray:
        return self.store.image(name).cpu().numpy()

    def true_label(self, name: str) -> np.ndarray:
        return self.store.label(name).cpu().numpy()

    def _batches(self, round_: int, seed: int) -> BatchStream:
        """Return the batches of a round, on the pseudo-labels of the round before."""
        config, confidence = self.config, self.folder.confidence(round_ - 1)
        read_labels = functools.partial(load_labels, self.folder.pseudo_labels(round_ - 1))
        weighted = config.confidence_weights and confidence.is_file()
        read_weights = functools.partial(load_labels, confidence) if weighted else None
        source = PseudoLabeledVolumes(self.store, self.cohort.unlabeled, read_labels, read_weights)
        settings = BatchSettings(
            patch_size=config.patch_size,
            labeled_bs=config.labeled_bs,
            batch_size=config.batch_size,
            length=config.max_iterations,
            seed=(seed,),
            orientations=ORIENTATIONS[config.orientations],
            augmentation=self.augmentation,
        )
        shard = (distributed.rank(), distributed.world_size())
        return BatchStream(self.cohort.labeled, self.cohort.unlabeled, source, settings, shard)

    def _predictor(self, network: nn.Module) -> Predictor:
        return Predictor(network, self.config.patch_size, (self.config.val_stride,) * 3, self.precision)
