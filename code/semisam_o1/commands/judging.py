"""Which round of a run has the best labels, by the validation scans: the trained rounds and the propagation alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semisam_o1.core.errors import InputError
from semisam_o1.core.terminal import progress
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.volumes import Dataset, Volume, content_hash
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.features.extract import FEATURE_SETS, extract_features
from semisam_o1.propagation import class_prototypes, propagate
from semisam_o1.propagation.atlas import VOXEL, AtlasPropagation, Template
from semisam_o1.refinement.pseudo_labels import largest_components
from semisam_o1.runs.best import best_round
from semisam_o1.runs.records import open_round
from semisam_o1.runs.results import RunResults

MIN_AGREEMENT = 0.5  # mean Dice with the labels trained on, below which a network has not learned them


@dataclass(frozen=True)
class Judgment:
    """The round whose labels are best, and why.

    Attributes:
        scores: validation Dice by round, as far as it is known.
        reason: a phrase for the console.
    """

    round: int
    scores: dict[int, float]
    reason: str


def judge(run: RunResults, dataset: Dataset, device: torch.device) -> Judgment:
    """Return the round with the highest Dice on the validation scans; labels of training scans do not count.

    For the trained rounds the run recorded it. For round 0, the label is propagated to the validation scans now, by the
    method of the run, but without the help of the unlabeled scans: at worst that underestimates round 0.
    """
    scores = {record.round: record.validation_dice for record in run.records if record.validation_dice is not None}
    best = best_round(run.records).round
    if len(run.records) == 1:
        return Judgment(0, {}, "no other round is finished yet")
    if not scores:
        return judge_without_labels(run)
    try:
        scores[0] = round0_dice(run, dataset, device)
    except InputError as error:
        reason = f"validation Dice {scores[best]:.3f}; round 0 could not be judged ({error})"
        return Judgment(best, scores, reason)
    best = max(sorted(scores), key=scores.get)
    listing = ", ".join(f"round {round_} {scores[round_]:.3f}" for round_ in sorted(scores))
    return Judgment(best, scores, f"the best by validation Dice: {listing}")


def judge_without_labels(run: RunResults) -> Judgment:
    """Return the last round whose network reproduces the labels that it was trained on; round 0 if none does.

    This finds networks that were trained too briefly. Which of two that learned theirs is better, it cannot tell.
    """
    best, agreements = run.records[-1].round, []
    while best > 0:
        agreements.append(f"round {best} {(agreement := label_agreement(run, best)):.2f}")
        if agreement >= MIN_AGREEMENT:
            break
        best -= 1
    measured = f"agreement with the labels trained on, at least {MIN_AGREEMENT:g} is asked: {', '.join(agreements)}"
    return Judgment(best, {}, f"no validation scan has a label; {measured}")


def label_agreement(run: RunResults, round_: int) -> float:
    """Return the mean foreground Dice of a round's labels and those that its network was trained on.

    Labels that were kept from the round before do not count; where all were, the network has not learned, and it is 0.
    """
    kept = {name for record in run.records if record.round == round_ for name in record.kept}
    before, after = (run.folder.pseudo_labels(number) for number in (round_ - 1, round_))
    with open_round(before) as old, open_round(after) as new:
        names = sorted((set(run.unlabeled) & old.names & new.names) - kept)
        scores = [dice_per_class(new.label(name), old.label(name), run.num_classes) for name in names]
    return float(np.mean(scores)) if scores else float(not kept)


def round0_dice(run: RunResults, dataset: Dataset, device: torch.device) -> float:
    """Return the mean foreground Dice of the propagated label on the validation scans.

    Raises:
        InputError: if a scan or the weights of the features are missing.
    """
    labeled = dataset.names("train.txt")[: run.arguments["labeled_num"]]
    templates, scans = [dataset.load(name) for name in labeled], list(map(dataset.load, dataset.names("val.txt")))
    unlabeled = [scan.name for scan in (*templates, *scans) if scan.label is None]
    if unlabeled:
        raise InputError(f"{dataset.path(unlabeled[0])} has no label any more")
    label = _propagation(
        run.arguments, templates, scans, ArrayCache(dataset.root / "features", run.folder.cache), device
    )
    scores = []
    for scan in progress(scans, "judging round 0", unit="scan"):
        prediction = label(scan)
        if run.arguments.get("largest_component"):
            prediction = largest_components(prediction, run.num_classes)
        scores.append(dice_per_class(prediction, scan.label, run.num_classes))
    return float(np.mean(scores))


def _propagation(
    arguments: dict[str, Any], templates: list[Volume], scans: list[Volume], cache: ArrayCache, device: torch.device
) -> Callable[[Volume], np.ndarray]:
    """Return the propagation of a run: a scan → label map (W, H, D) uint8."""
    by_atlas, kind = arguments["propagation"] == "atlas", arguments["features"]
    features: dict[str, Any] = {}
    if not by_atlas or kind != "builtin":  # registration computes its own features
        feature_set = FEATURE_SETS[kind](Path(arguments["sam_ckpt"]), device)
        images = {volume.name: volume.image for volume in (*templates, *scans)}
        hashes = {name: content_hash(image) for name, image in images.items()}
        features, _ = extract_features(images.__getitem__, hashes, feature_set, cache, progress)
    if not by_atlas:
        pairs = [(features[volume.name], volume.label) for volume in templates]
        prototypes = class_prototypes(pairs, arguments["num_classes"])
        return lambda scan: propagate(features[scan.name], prototypes, scan.image.shape)
    known = all(volume.geometry.known for volume in (*templates, *scans))
    spacing = {volume.name: volume.geometry.spacing if known else VOXEL for volume in (*templates, *scans)}
    sources = [Template(v.image, v.label, features.get(v.name), spacing[v.name]) for v in templates]
    atlas = AtlasPropagation(sources, arguments["num_classes"], device, arguments.get("registration", True))
    return lambda scan: atlas.label(scan.image, spacing[scan.name], features.get(scan.name)).label
