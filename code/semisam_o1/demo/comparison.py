"""Dice of round 0 and of the trained model on the same test scans: a table and a figure."""

from __future__ import annotations

import numpy as np

from semisam_o1.core.text_table import text_table
from semisam_o1.drawing.figures import draw_case
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.propagation.atlas import AtlasPropagation, Template
from semisam_o1.runs.results import RunResults


def compare_with_round0(results: RunResults) -> str:
    """Propagate the template's label to the test scans, as round 0 does, and compare with the trained model.

    Args:
        results: a run that was tested.

    Returns:
        The table. A figure of the case with the median Dice is written to the run's figures/.
    """
    template = results.dataset.load(results.dataset.names("train.txt")[0])
    atlas = AtlasPropagation([Template(template.image, template.label)], results.num_classes, registration=False)
    tested = list(results.tested())
    round0 = [atlas.label(scan.volume.image).label for scan in tested]
    pairs = zip(tested, round0, strict=True)
    scores = np.array([dice_per_class(label, scan.volume.label, results.num_classes) for scan, label in pairs])
    median = int(np.argsort(scores.mean(axis=1))[len(tested) // 2])
    path = results.folder.figures / "demo.png"
    draw_case(tested[median].volume, round0[median], tested[median].labels["prediction"], path)

    summary = results.test["summary"]
    trained = [*(summary["classes"][c] for c in sorted(summary["classes"])), summary["overall"]]
    names = [*map(str, range(1, results.num_classes)), "all"]
    rows = [["class", "round 0", "trained"]]
    for name, before, after in zip(names, [*scores.mean(axis=0), scores.mean()], trained, strict=True):
        rows.append([name, f"{before:.4f}", f"{after['dice']['mean']:.4f}"])
    return "\n".join([f"mean Dice on {len(tested)} test scans", *text_table(rows), f"figure: {path}"])
