"""Figures of a run as PNG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from semisam_o1.data.dataset.volumes import Volume

# Told apart with any color vision, after Okabe and Ito, "Color Universal Design", 2008.
CLASS_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")


def draw_curves(metrics: Path, path: Path) -> None:
    """Draw the loss and the validation Dice of a run over its iterations, all rounds one after another.

    Args:
        metrics: the run's metrics.jsonl.
    """
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    losses = [(row["step"], row["loss/total"], row["round"]) for row in rows if "loss/total" in row]
    scores = [(row["step"], row) for row in rows if "validation/dice" in row]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, constrained_layout=True)
    for round_ in sorted({row[2] for row in losses}):
        steps, values = np.array([(step, value) for step, value, r in losses if r == round_]).T
        (line,) = top.plot(steps, values, alpha=0.25, linewidth=0.7)
        window = max(1, len(values) // 50)
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        top.plot(steps[window - 1 :], smooth, color=line.get_color(), label=f"round {round_}")
    top.set_ylabel("loss")
    top.legend(loc="upper right", frameon=False)
    if scores:
        keys = [key for key in scores[0][1] if key.startswith("validation/dice_class")]
        for i, key in enumerate(keys):
            name = key.removeprefix("validation/dice_").replace("class", "class ")
            color = CLASS_COLORS[i % len(CLASS_COLORS)]
            bottom.plot([s for s, _ in scores], [row[key] for _, row in scores], ".-", color=color, label=name)
        if len(keys) > 1:
            mean = [row["validation/dice"] for _, row in scores]
            bottom.plot([step for step, _ in scores], mean, ".-", color="black", label="mean")
        bottom.legend(loc="best", frameon=False)
    bottom.set(xlabel="iteration, over all rounds", ylabel="validation Dice", ylim=(0, 1))
    _save(figure, path)


def draw_rounds(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray | None, Sequence[np.ndarray]]],
    titles: Sequence[str],
    path: Path,
) -> None:
    """Draw the labels of a few volumes over the rounds, a row per volume.

    Args:
        rows: (name, image (W, H, D), true label or None, label of each round).
        titles: of the rounds' columns.
    """
    figure, axes = plt.subplots(
        len(rows), 2 + len(titles), figsize=(2.4 * (2 + len(titles)), 2.6 * len(rows)), squeeze=False,
        constrained_layout=True,
    )  # fmt: skip
    for line, (name, image, truth, labels) in zip(axes, rows, strict=True):
        z = busiest_slice(truth if truth is not None and truth.any() else labels[-1])
        show_slice(line[0], image[..., z], None, name if len(name) < 24 else f"{name[:21]}…")
        show_slice(
            line[1],
            image[..., z],
            None if truth is None else truth[..., z],
            "true label" if truth is not None else "no true label",
        )
        for axis, label, title in zip(line[2:], labels, titles, strict=True):
            show_slice(axis, image[..., z], label[..., z], title)
    _save(figure, path)


def draw_case(volume: Volume, round0: np.ndarray, prediction: np.ndarray, path: Path) -> None:
    """Draw one test case: image, true label, round-0 label and final prediction, in two planes.

    Args:
        round0, prediction: label maps (W, H, D) of the volume.
    """
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.6), constrained_layout=True)
    columns = [("image", None), ("true label", volume.label), ("round 0", round0), ("trained", prediction)]
    for row, plane in zip(axes, ((0, 1, 2), (0, 2, 1)), strict=True):
        k = busiest_slice(volume.label.transpose(plane))
        for axis, (title, label) in zip(row, columns, strict=True):
            shown = None if label is None else label.transpose(plane)[..., k]
            show_slice(axis, volume.image.transpose(plane)[..., k], shown, title, upright=plane[1] == 2)
    figure.suptitle(volume.name)
    _save(figure, path)


def busiest_slice(label: np.ndarray) -> int:
    """Return the index along the third axis that shows the most foreground."""
    return int((label > 0).sum(axis=(0, 1)).argmax())


def show_slice(axis: Axes, image: np.ndarray, label: np.ndarray | None, title: str, upright: bool = False) -> None:
    """Show one slice (W, H) in gray with every class of its label outlined; ``upright`` puts its end on top."""
    low, high = np.percentile(image, (1, 99))
    axis.imshow(image.T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    if label is not None:
        for c in range(1, int(label.max()) + 1):
            if (label == c).any():
                color = CLASS_COLORS[(c - 1) % len(CLASS_COLORS)]
                axis.contour((label == c).T, levels=[0.5], colors=[color], linewidths=1.2)
    if upright:
        axis.invert_yaxis()
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
