"""The card of a packed model: what it segments, what it expects, how it was trained, and what is not known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from semisam_o1.runs.results import stated_names


def model_card(description: Mapping[str, Any]) -> str:
    """Return the card as Markdown.

    Args:
        description: as ``packing.describe`` returns it.
    """
    arguments = description["arguments"]
    lines = [f"# {arguments['exp']}", ""]
    lines += [
        "A segmentation network for 3-D medical scans, trained with SemiSAM-O1 " + description["version"] + ".",
        "",
    ]
    lines += ["## Classes", "", *_classes(description), "", "## Input", "", *_input(description), ""]
    lines += ["## Training", "", *_training(description), "", "## Use", ""]
    lines += ["    python code/predict.py --exp MODEL.zip --scans SCANS --out LABELS", ""]
    lines += ["Research software. Nobody has tested this network for clinical use.", ""]
    return "\n".join(lines)


def _classes(description: Mapping[str, Any]) -> Iterator[str]:
    arguments = description["arguments"]
    names = stated_names(description["preparation"], arguments)
    yield "| value | class |\n| --- | --- |\n| 0 | background |"
    for c in range(1, arguments["num_classes"]):
        yield f"| {c} | {names.get(c, 'foreground' if arguments['num_classes'] == 2 else f'class {c}')} |"


def _input(description: Mapping[str, Any]) -> Iterator[str]:
    settings, seen = description["preparation"] or {}, description["scans"] or {}
    yield "Scans are prepared by the settings in `model.json`; any orientation and spacing is brought to these."
    yield ""
    for key in ("orientation", "spacing", "crop", "intensity", "window"):
        if settings.get(key) is not None:
            yield f"- {key}: {settings[key]}"
    for key, text in (("spacing", "spacing in mm"), ("size", "size in voxels")):
        if seen.get(key):
            ends = [(f"{axis[0]:.4g}", f"{axis[-1]:.4g}") for axis in seen[key]]
            ranges = " × ".join(low if low == high else f"{low}–{high}" for low, high in ends)
            yield f"- {text} of the training scans: {ranges}"
    if seen.get("orientations"):
        yield f"- their axes point towards {', '.join(seen['orientations'])}"
    yield f"- patch: {' × '.join(map(str, description['arguments']['patch_size']))} voxels"
    if len(zooms := description["arguments"]["zooms"]) > 1:
        yield f"- predicted at several sizes, whose mean counts: {', '.join(map(str, zooms))}"
    if bias := description["training"].get("decision_bias"):
        yield f"- decision: the logarithms of the probabilities are shifted by {', '.join(f'{b:.3f}' for b in bias)}"


def _training(description: Mapping[str, Any]) -> Iterator[str]:
    arguments, training = description["arguments"], description["training"]
    for key in (
        "backbone",
        "recipe",
        "labeled_num",
        "max_iterations",
        "num_rounds",
        "propagation",
        "refinement",
        "seed",
    ):
        if key in arguments:
            yield f"- {key}: {arguments[key]}"
    if "round" in training:
        yield f"- network of round {training['round']}, iteration {training['iteration']}"
    score = training.get("validation_dice")
    yield "- quality: " + ("not measured" if score is None else f"validation Dice {score:.3f}, by which it was chosen")
