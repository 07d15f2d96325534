#!/usr/bin/env python3
"""How much the choice of the template, or of the next one, matters: pseudo-label Dice of round 0 with the suggested
scan and with many others.

Every scan of train.txt needs a label here, to score with. A Markdown row per template, and one that sums up.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

import code_path  # noqa: F401
from semisam_o1.commands.suggestion import LabelQuality, cohort_distances, label_quality, rank_next
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.features.builtin import BuiltinFeatures
from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.propagation import class_prototypes, propagate
from semisam_o1.propagation.atlas import AtlasPropagation, Template
from semisam_o1.propagation.representativeness import Distances, rank, rank_beside
from semisam_o1.runs.results import read_run

ALONE = "the labeled ones alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="dataset folder")
    parser.add_argument("--propagation", choices=("atlas", "prototype"), default="atlas", help="with builtin features")
    parser.add_argument("--registration", action="store_true", help="with atlas; takes seconds a scan and template")
    parser.add_argument("--num_classes", type=int, default=2)
    parser.add_argument("--run", help="a trained run: which scan to label beside its templates")
    parser.add_argument(
        "--every", type=int, default=4, help="try every n-th scan of train.txt beside the suggested one"
    )
    parser.add_argument("--scored", type=int, default=1000, help="score on this many of the other scans, evenly chosen")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of what was measured; gone on with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = Dataset(arguments.root)
    names = dataset.names("train.txt")
    volumes = {name: dataset.load(name) for name in names}

    @cache
    def features(name: str) -> VolumeFeatures:
        image = volumes[name].image
        return VolumeFeatures(BuiltinFeatures()(image), np.empty(0), image.shape)

    started = time.monotonic()
    labeled, criteria = [], {}
    if arguments.run:
        results = read_run(arguments.run, root_path=arguments.root)
        labeled, quality = results.labeled, label_quality(results)
        ranking = rank_next(results, quality, "builtin", Path(), "cpu")
        criteria = other_criteria(cohort_distances(dataset, names, "builtin", Path(), "cpu"), labeled, quality)
    else:
        ranking = rank(cohort_distances(dataset, names, "builtin", Path(), "cpu"))
    place = [candidate.name for candidate in ranking]
    print(f"ranked in {time.monotonic() - started:.0f} s")
    settings = [arguments.propagation, arguments.registration, arguments.num_classes, arguments.scored, labeled]
    kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"settings": settings, "dice": {}}
    if kept["settings"] != settings:
        parser.error(f"{arguments.out} was measured with other settings; name another --out")
    done = kept["dice"]
    scored = names[:: -(-len(names) // arguments.scored)]
    even = [name for name in names[:: arguments.every] if name not in labeled]
    chosen = list(dict.fromkeys([place[0], *criteria.values(), *even]))
    print("| template | place among the suggested | pseudo-label Dice | time |\n| --- | --- | --- | --- |")
    for template in [*chosen, *([ALONE] if labeled else [])]:
        started = time.monotonic()
        if template not in done:
            label = labeller(volumes, features, [*labeled, *([template] if template != ALONE else [])], arguments)
            done[template] = {
                name: dice_per_class(label(name), volumes[name].label, arguments.num_classes)
                for name in scored
                if name not in (*labeled, template)
            }
            arguments.out.write_text(json.dumps(kept))
        among = "" if template == ALONE else f"{place.index(template) + 1} of {len(place)}"
        time_taken = f"{time.monotonic() - started:.0f} s"
        print(f"| {template} | {among} | {_mean(done[template]):.3f} | {time_taken} |", flush=True)
    others = [_mean(done[name]) for name in chosen[1:]]
    print(
        f"suggested {_mean(done[chosen[0]]):.3f}; {len(others)} others: mean {np.mean(others):.3f}, "
        f"best {max(others):.3f}, worst {min(others):.3f}; rank correlation of place and Dice of all "
        f"{spearmanr([place.index(name) for name in chosen], [_mean(done[name]) for name in chosen])[0]:+.2f}"
    )
    if criteria:
        compare({"the suggestion": place[0], **criteria}, place, even, done)


def compare(criteria: dict[str, str], place: list[str], even: list[str], done: dict[str, dict]) -> None:
    """Print a Markdown row per criterion, with the scan that it chooses, and one for a random choice."""
    gains = {name: gain(scores, done[ALONE]) for name, scores in done.items() if name in place}
    print("\n| chosen by | scan | Dice of the other scans | more than without |\n| --- | --- | --- | --- |")
    for criterion, name in criteria.items():
        print(f"| {criterion} | {name} | {_mean(done[name]):.3f} | {gains[name]:+.3f} |")
    dice, more = np.mean([_mean(done[name]) for name in even]), np.mean([gains[name] for name in even])
    print(f"| at random | mean of {len(even)} | {dice:.3f} | {more:+.3f} |")
    correlation = spearmanr([place.index(name) for name in gains], list(gains.values()))[0]
    print(f"rank correlation of place and the last column: {correlation:+.2f}")


def gain(scores: dict[str, list[float]], without: dict[str, list[float]]) -> float:
    """Return by how much the mean Dice of scans is higher with another template than without it."""
    return _mean(scores) - _mean({name: without[name] for name in scores})


def other_criteria(distances: Distances, labeled: list[str], quality: LabelQuality) -> dict[str, str]:
    """Return what the suggestion of the next scan is compared with: criterion → the scan that it chooses."""
    others = {"gain, every scan counting the same": rank_beside(distances, labeled)[0].name}
    for measure, weights in (("1 − expected Dice", quality.failing), ("uncertainty", quality.uncertainty)):
        if weights:
            others[f"distance to the others, weighted by {measure}"] = nearest(distances, weights)
    if quality.uncertainty:
        others["highest uncertainty"] = max(quality.uncertainty, key=quality.uncertainty.get)
    if quality.expected:
        others["lowest expected Dice"] = min(quality.expected, key=quality.expected.get)
    return others


def nearest(distances: Distances, weights: dict[str, float]) -> str:
    """Return the unlabeled scan with the smallest mean distance to the others, which count by ``weights``."""
    target_weights = np.array([weights.get(name, 0.0) for name in distances.targets])
    means = {
        name: np.nansum(row * target_weights) / target_weights[np.isfinite(row)].sum()
        for name, row in zip(distances.candidates, distances.values, strict=True)
        if name in weights
    }
    return min(means, key=means.get)


def labeller(volumes, features, templates: list[str], arguments: argparse.Namespace):
    """Return the function from a scan's name to its label, spread from the templates as round 0 does."""
    num_classes = arguments.num_classes
    if arguments.propagation == "atlas":
        labeled = [
            Template(volumes[name].image, volumes[name].label, spacing=volumes[name].geometry.spacing)
            for name in templates
        ]
        atlas = AtlasPropagation(labeled, num_classes, registration=arguments.registration)
        return lambda name: atlas.label(volumes[name].image, volumes[name].geometry.spacing).label
    prototypes = class_prototypes([(features(name), volumes[name].label) for name in templates], num_classes)
    return lambda name: propagate(features(name), prototypes, volumes[name].image.shape)


def _mean(scores: dict[str, list[float]]) -> float:
    return float(np.mean([np.mean(score) for score in scores.values()]))


if __name__ == "__main__":
    main()
