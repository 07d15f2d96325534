"""One training run: features, round 0, then rounds of training, relabeling and refinement."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from semisam_o1.core import distributed
from semisam_o1.core.atomic_io import write_text
from semisam_o1.core.device import resolve_device
from semisam_o1.core.errors import InputError, RunError
from semisam_o1.core.memory import configure_allocator
from semisam_o1.core.seeding import derive_seed, torch_generator
from semisam_o1.data.sampling.augmentation import Augmentation
from semisam_o1.data.sampling.batches import BatchSettings, BatchStream
from semisam_o1.data.sampling.patches import ORIENTATIONS
from semisam_o1.data.sampling.store import PseudoLabeledVolumes, VolumeStore, choose_cache
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.evaluation.sliding_window import Predictor
from semisam_o1.features.extract import FEATURE_SETS, CohortAccess, FeatureSet, extract_features
from semisam_o1.methods import METHODS
from semisam_o1.networks.kernels import Kernels
from semisam_o1.pipeline import console
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.kernels import choose_kernels
from semisam_o1.pipeline.memory import memory_needed
from semisam_o1.pipeline.pseudo_labeling import CohortLabels
from semisam_o1.pipeline.start import PreflightResult, ResumePoint, check_run, registration_cache, take_folder
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.refinement.quality import not_to_be_trusted
from semisam_o1.runs.best import best_round, improves
from semisam_o1.runs.layout import RunFolder, RunLock
from semisam_o1.runs.records import (
    RoundRecord,
    load_labels,
    load_round,
    load_weights,
    read_records,
    write_round,
    write_tracking,
)
from semisam_o1.runs.results import read_run, stated_names
from semisam_o1.training import checkpoint
from semisam_o1.training.stopping import StopRequest
from semisam_o1.training.tracking import Tracker
from semisam_o1.training.trainer import BestModel, RoundContext, RoundTrainer


def train(config: TrainConfig) -> None:
    """Run the method from one labeled volume to trained networks and labels for the cohort.

    Raises:
        InputError: if the arguments or the dataset cannot be used; nothing has been computed then.
        Interrupted: if a stop was requested; the state is saved.
        RunError: if something goes wrong later on.
    """
    folder = RunFolder.of(config.exp, config.backbone, config.labeled_num, config.model)
    with StopRequest(config.max_time) as stop:
        folder.check(config.resume, config.overwrite)
        RunLock(folder.path).check()
        device = distributed.start(resolve_device(config.device))
        configure_allocator(device.type)
        feature_set = FEATURE_SETS[config.features](config.sam_ckpt, device)
        config, checked = check_run(config, folder, device, feature_set.key, stop)
        if config.check_only:
            if distributed.is_main():
                print(console.check_summary(config, checked))
            return
        with RunLock(folder.path) as lock:
            start = take_folder(config, checked, lock)
            stop.kept = "what is finished is kept"
            names = stated_names(checked.arguments["preparation"], checked.arguments["arguments"])
            try:
                with Tracker(folder, start.finished, start.step, names) as tracker:
                    run = build_run(config, checked, feature_set, tracker, stop)
                    del feature_set  # the encoder's memory is better spent on training
                    run.run(start)
            except InputError as error:
                raise RunError(f"{error}; it was good when the run started") from error


def build_run(
    config: TrainConfig, checked: PreflightResult, feature_set: FeatureSet, tracker: Tracker, stop: StopRequest
) -> Run:
    """Load the volumes, extract or find their features, and return the run, ready to start."""
    torch.backends.cudnn.deterministic = bool(config.deterministic)
    cohort, device = checked.cohort, checked.device
    location, reason = choose_cache(config.cache, device, *memory_needed(config, cohort, checked.precision))
    tracker.say(console.opening(config, checked, location, reason))
    store = VolumeStore(config.dataset, [*cohort.train, *cohort.validation], location, device)
    cache = registration_cache(config, checked.folder)
    compared = cohort.train if config.refinement == "knn" else (*cohort.train, *cohort.validation)
    hashes = {name: cohort.info[name].hash for name in compared}
    started = time.monotonic()
    features, computed = extract_features(
        lambda name: store.image(name).cpu().numpy(), hashes, feature_set, cache, stop.progress
    )
    how = f"{computed} computed in {time.monotonic() - started:.1f} s" if computed else "nothing extracted"
    tracker.say(f"features ({feature_set.key}): {len(features) - computed} found on disk, {how}")
    volumes = CohortAccess(cohort, store, features, feature_set.key, config.num_classes)
    labels = CohortLabels(config, volumes, cache, device, stop.progress, tracker.say)
    kernels = choose_kernels(config, checked, tracker.say)
    return Run(config, checked.folder, device, checked.precision, kernels, volumes, labels, tracker, stop)


@dataclass(frozen=True)
class Run:
    """A training run, complete when built: ``run`` does the stages of the method in their order."""

    config: TrainConfig
    folder: RunFolder
    device: torch.device
    precision: str
    kernels: Kernels
    volumes: CohortAccess
    labels: CohortLabels
    tracker: Tracker
    stop: StopRequest

    def run(self, start: ResumePoint) -> None:
        """Do every stage that is not finished yet."""
        for remark in start.remarks:
            self.tracker.say(remark)
        if start.finished < 0:
            started = time.monotonic()
            self.finish_round(0, self.labels.propagate(), started)
        augmentation = self.labels.augmentation()
        for round_ in range(start.next_round, self.config.num_rounds + 1):
            if distributed.any_rank(self.stop.requested):
                raise self.stop.interruption(f"round {round_ - 1} is finished")
            started = time.monotonic()
            best = self.train_round(round_, augmentation, start.state if round_ == start.next_round else None)
            best = self.labels.calibrate(best, self.best_predictor(best))
            predict = self.best_predictor(best)
            guarded = self.config.guard and self.config.refinement == "fusion"
            former = load_round(self.folder, round_ - 1, self.volumes.unlabeled) if guarded else None
            better = improves(best.dice, self.records_before(round_))
            pseudo = self.labels.relabel(predict, former, better)
            self.finish_round(round_, pseudo, started, self.labels.measure(best, predict, pseudo))
            if distributed.is_main() and (remark := console.too_short(self.config, self.folder, round_)):
                self.tracker.say(remark)
        if distributed.is_main():
            self.summarize()

    def train_round(self, round_: int, augmentation: Augmentation, state: dict[str, Any] | None) -> BestModel:
        """Train a network on the labels of the previous round, or continue from ``state``."""
        config, seed = self.config, derive_seed(self.config.seed, round_)
        student = config.new_network(torch_generator(seed)).to(self.device)
        if config.warm_start and round_ > 1:
            checkpoint.load_weights(student, self.folder.round_best(round_ - 1))
        self.kernels.apply(student)
        method = METHODS[config.backbone](student, config, seed)
        method.use_kernels(self.kernels)
        num_workers = 0 if self.volumes.store.in_memory else config.num_workers
        context = RoundContext(round_, seed, self.precision, num_workers, self.folder, self.tracker, self.stop)
        batches = self.make_batches(round_, seed, augmentation)
        validate = self.validate if self.volumes.cohort.validation else None
        trainer = RoundTrainer(student, method, batches, validate, config, context)
        if state is not None:
            trainer.load_state_dict(state)
            self.tracker.say(f"round {round_} continues after iteration {trainer.iteration}")
        return trainer.run()

    def validate(self, network: nn.Module) -> list[float]:
        """Return the mean Dice of every foreground class over the validation volumes, distributed over the ranks."""
        predictor, store = self.predictor(network), self.volumes.store

        def score(name: str) -> list[float]:
            prediction = predictor(store.image(name)).argmax(0)
            return dice_per_class(prediction, store.label(name).to(prediction.device), self.config.num_classes)

        return np.mean(distributed.share_out(score, self.volumes.cohort.validation), axis=0).tolist()

    def predictor(self, network: nn.Module, **how: Any) -> Predictor:
        return Predictor(network, self.config.patch_size, (self.config.val_stride,) * 3, self.precision, **how)

    def best_predictor(self, best: BestModel) -> Predictor:
        network = self.config.new_network()
        network.load_state_dict(best.weights)
        self.kernels.apply(network)
        bias = best.decision and best.decision.bias
        return self.predictor(network.to(self.device), bias=bias, zooms=self.config.zooms)

    def keep_models(self, best: BestModel, record: RoundRecord) -> None:
        """Keep a round's best network; that of the best round is the run's."""
        checkpoint.save(best.weights, self.folder.round_best(record.round))
        if best_round([*self.records_before(record.round), record]) is record:
            checkpoint.save(best.weights, self.folder.best_model)

    def records_before(self, round_: int) -> list[RoundRecord]:
        return [record for record in read_records(self.folder) if record.round < round_]

    def finish_round(self, round_: int, pseudo: PseudoLabels, started: float, best: BestModel | None = None) -> None:
        """Score (where true labels are known), log and write network and labels of a round, which finishes it."""
        if distributed.is_main():
            record = self.labels.score(pseudo, round_, time.monotonic() - started, best)
            if best is not None:
                self.keep_models(best, record)
            # The labels last: with them the round counts as finished, and what was logged without them is dropped.
            self.tracker.log(round_ * self.config.max_iterations, record.logged(), round=round_)
            self.tracker.sync()
            write_round(self.folder, pseudo, record)
            self.tracker.say(record.describe())
            if remark := not_to_be_trusted(pseudo.expected):
                self.tracker.say(remark)
        distributed.barrier()

    def summarize(self) -> None:
        """Write the summary and the figures, and tell the user which commands come next."""
        from semisam_o1.drawing.figures import draw_curves, draw_labels  # matplotlib takes a second to import

        folder, results = self.folder, read_run(self.folder.path)
        records, best = results.records, best_round(results.records)
        kept = f"best: {console.selection(best, len(self.volumes.cohort.validation))}: {folder.best_model}"
        write_text(folder.summary, "\n".join([*(record.describe() for record in records), kept]) + "\n")
        write_tracking(folder)
        draw_curves(results.steps, folder.figures / "curves.png", results.class_name)
        rows = self.labels.figure_rows([folder.pseudo_labels(record.round) for record in records])
        titles = [f"round {record.round}" for record in records]
        draw_labels(rows, titles, folder.figures / "pseudo_labels.png", results.class_names)
        took, following = console.took(folder, records), console.next_commands(self.config)
        for text in (console.closing(records), *took, kept, following):
            self.tracker.say(text)

    def make_batches(self, round_: int, seed: int, augmentation: Augmentation) -> BatchStream:
        """Return the batches of a round, on the pseudo-labels of the previous round."""
        config, folder, last = self.config, self.folder, round_ - 1
        read_labels = functools.partial(load_labels, folder.pseudo_labels(last))
        weighted = config.confidence_weights and folder.confidence(last).is_file()
        read_weights = functools.partial(load_weights, folder, last, config.num_classes) if weighted else None
        source = PseudoLabeledVolumes(self.volumes.store, self.volumes.unlabeled, read_labels, read_weights)
        settings = BatchSettings(
            patch_size=config.patch_size,
            labeled_bs=config.labeled_bs,
            batch_size=config.batch_size,
            length=config.max_iterations,
            seed=(seed,),
            orientations=ORIENTATIONS[config.orientations],
            augmentation=augmentation,
            foreground=config.foreground,
        )
        volumes, shard = self.volumes, (distributed.rank(), distributed.world_size())
        device = self.device if volumes.store.in_memory else None  # worker processes have no GPU
        return BatchStream(volumes.labeled, volumes.unlabeled, source, settings, shard, device)
