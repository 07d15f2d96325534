"""The figures of a finished round, and the summary of a finished run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semisam_o1.core.atomic_io import write_text
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.features.extract import CohortAccess
from semisam_o1.pipeline import console
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, best_round, load_labels, read_records, write_tracking
from semisam_o1.runs.results import read_steps
from semisam_o1.training.tracking import Tracker
from semisam_o1.training.trainer import BestModel

FIGURE_ROWS = 4  # unlabeled volumes shown in the figure of the rounds


def score_round(
    config: TrainConfig,
    volumes: CohortAccess,
    pseudo: PseudoLabels,
    round_: int,
    seconds: float,
    best: BestModel | None,
) -> RoundRecord:
    """Return the figures of a round; the Dice of every volume with a true label is added to ``pseudo``."""
    names, per_class = volumes.unlabeled, []
    for name in _with_true_label(config, volumes, names):
        scores = dice_per_class(pseudo.labels[name], volumes.label(name), config.num_classes)
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


def summarize(config: TrainConfig, folder: RunFolder, volumes: CohortAccess, tracker: Tracker) -> None:
    """Write the summary and the figures, and tell the user which commands come next."""
    from semisam_o1.drawing.figures import draw_curves, draw_labels  # matplotlib takes a second to import

    records = read_records(folder)
    best = best_round(records)
    lines = [record.describe() for record in records]
    lines.append(f"best: round {best.round}, validation Dice {best.validation_dice:.4f}: {folder.best_model}")
    write_text(folder.summary, "\n".join(lines) + "\n")
    write_tracking(folder)
    draw_curves(read_steps(folder.metrics), folder.figures / "curves.png")
    names = volumes.unlabeled[:: max(1, len(volumes.unlabeled) // FIGURE_ROWS)][:FIGURE_ROWS]
    rounds = [load_labels(folder.pseudo_labels(record.round), names) for record in records]
    labeled = _with_true_label(config, volumes, names)
    rows = []
    for name in names:
        truth = volumes.label(name) if name in labeled else None
        rows.append((name, volumes.image(name), truth, [labels[name] for labels in rounds]))
    draw_labels(rows, [f"round {record.round}" for record in records], folder.figures / "pseudo_labels.png")
    for text in (console.closing(records), lines[-1], console.next_commands(config)):
        tracker.say(text)


def _with_true_label(config: TrainConfig, volumes: CohortAccess, names: Sequence[str]) -> list[str]:
    """Return those of the names whose true label is known and may be used for diagnosis."""
    return [name for name in names if config.labels_for_diagnosis and volumes.cohort.info[name].label_hash]
