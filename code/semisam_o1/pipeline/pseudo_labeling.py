"""The pseudo-labels of a cohort: propagated in round 0, then predicted and refined after each round of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semisam_o1.core.distributed import cpu_threads, share_out
from semisam_o1.core.errors import listed
from semisam_o1.core.terminal import ProgressFn
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.prediction import Prediction
from semisam_o1.data.sampling.augmentation import Augmentation
from semisam_o1.evaluation.decision import DoubtfulVoxels, Measured, calibrate, reliability
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.features.extract import CohortAccess
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.pipeline.opinions import RememberingAtlas
from semisam_o1.propagation import PROPAGATIONS
from semisam_o1.refinement.correction import CohortCorrection
from semisam_o1.refinement.neighbors import fuse, refine
from semisam_o1.refinement.pseudo_labels import PseudoLabels, keep_former, mean_entropy, without_islands
from semisam_o1.refinement.quality import MEAN_TOLERANCE, TOLERANCE, error_increase, expected_dice, judge
from semisam_o1.refinement.surroundings import predict_around
from semisam_o1.runs.records import RoundRecord, load_labels
from semisam_o1.training.trainer import BestModel

FIGURE_ROWS = 4  # unlabeled volumes shown in the figure of the rounds
FigureRow = tuple[str, np.ndarray, np.ndarray | None, list[np.ndarray]]  # name, image, true label, labels of the rounds


class CohortLabels:
    """Labels the unlabeled volumes of a run; ``cache`` and ``device`` are those of the registration."""

    def __init__(
        self,
        config: TrainConfig,
        access: CohortAccess,
        cache: ArrayCache,
        device: torch.device,
        progress: ProgressFn,
        say: Callable[[str], None],
    ):
        self.config, self.access, self.progress, self.say = config, access, progress, say
        self.atlas = RememberingAtlas(
            access, cache, config.knn_k, device, config.registration, compare_features=config.features != "builtin"
        )

    def propagate(self) -> PseudoLabels:
        """Round 0: propagate the labels of the labeled volumes."""
        propagate, names = PROPAGATIONS[self.config.propagation], self.access.unlabeled
        pseudo = self._collect(propagate(self.access, self.atlas, self.progress, self.say))
        if self.config.propagation != "atlas":
            return pseudo
        expected = share_out(self.atlas.expected_dice, names, threads=cpu_threads())
        return replace(pseudo, expected=dict(zip(names, expected, strict=True)))

    def calibrate(self, best: BestModel, predict: Callable[[Tensor], Tensor]) -> BestModel:
        """Return the best model of a round with the decision that the validation labels ask for.

        Args:
            predict: volume (W, H, D) → class probabilities (C, W, H, D) of that model.
        """
        names, store = self.access.cohort.validation, self.access.store
        if not (self.config.calibrate and names):
            return best

        def doubtful(name: str) -> DoubtfulVoxels:
            return DoubtfulVoxels.of(predict(store.image(name)), store.label(name))

        voxels = share_out(doubtful, names, self.progress, "calibrating")
        return replace(best, decision=calibrate(voxels, self.config.num_classes))

    def measure(self, best: BestModel, predict: Callable[[Tensor], Tensor], pseudo: PseudoLabels) -> BestModel:
        """Return the best model of a round with what the validation labels say about its predictions.

        Args:
            predict: as in ``calibrate``, with the decision.
            pseudo: labels of that round, which correct the predictions of volumes outside of the cohort.
        """
        names, store = self.access.cohort.validation, self.access.store
        if not (self.config.calibrate and names):
            return best
        correct = CohortCorrection(self.atlas, pseudo.of) if self.config.refinement == "fusion" else None

        def dice(name: str, probabilities: Tensor) -> list[float]:
            return dice_per_class(self._label(probabilities).label, self.access.label(name), self.config.num_classes)

        def score(name: str) -> tuple[tuple[float, ...], list[float], list[float]]:
            probabilities = predict(store.image(name))
            expected, alone = expected_dice(probabilities, probabilities), dice(name, probabilities)
            return expected, alone, alone if correct is None else dice(name, correct(name, probabilities))

        expected, alone, corrected = zip(*share_out(score, names, self.progress, "correcting"), strict=True)
        return replace(best, measured=Measured.of(alone, corrected if correct else None, expected))

    def relabel(
        self, predict: Callable[[Tensor], Tensor], former: PseudoLabels | None = None, better: bool = False
    ) -> PseudoLabels:
        """Label the unlabeled volumes with a trained model, and refine the labels where it is uncertain.

        Args:
            predict: volume (W, H, D) → class probabilities (C, W, H, D).
            former: of the round before; its labels are only replaced by better ones. None: they are all replaced.
            better: whether the model is known to be better than that of an earlier round; then it has learned.
        """
        fusing = self.config.refinement == "fusion"

        def label(name: str) -> tuple[Prediction, float, tuple[float, ...], np.ndarray | None]:
            image = self.access.store.image(name)
            region = self.atlas.registered(name).region if fusing else None
            probabilities = predict_around(image, region, predict, self.config.patch_size, self.config.zooms)
            coarse = self.atlas.on_grid(name, probabilities) if fusing else None
            expected = expected_dice(probabilities, probabilities)
            return self._label(probabilities), mean_entropy(probabilities), expected, coarse

        results = share_out(label, self.access.unlabeled, self.progress, "relabeling")
        predictions, uncertainty, expected, coarse = (
            dict(zip(self.access.unlabeled, values, strict=True)) for values in zip(*results, strict=True)
        )
        pseudo = replace(self._collect(predictions.values()), uncertainty=uncertainty, expected=expected)
        return self._fuse(pseudo, coarse, former, better) if fusing else self._vote(pseudo)

    def score(self, pseudo: PseudoLabels, round_: int, seconds: float, best: BestModel | None) -> RoundRecord:
        """Return the figures of a round; the Dice of every volume with a true label is added to ``pseudo``."""
        names, per_class = self.access.unlabeled, []
        for name in self.diagnosed(names):
            scores = dice_per_class(pseudo.labels[name], self.access.label(name), self.config.num_classes)
            per_class.append(scores)
            pseudo.dice[name] = float(np.mean(scores))
        expected, measured = list(pseudo.expected.values()), (best and best.measured) or Measured()
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
            decision_bias=best.decision.bias if best and best.decision else None,
            decision_gain=best.decision.gain if best and best.decision else None,
            **vars(replace(measured, reliability=measured.reliability or pseudo.reliability)),
            expected_dice=float(np.mean(expected)) if expected else None,
            expected_dice_per_class=tuple(np.mean(expected, axis=0).tolist()) if expected else None,
            turned=tuple(self.atlas.turned) if self.config.propagation == "atlas" and not round_ else (),
            kept=tuple(pseudo.kept),
        )

    def diagnosed(self, names: Sequence[str]) -> list[str]:
        """Return those of the names whose true label is known and may be used for diagnosis."""
        info, allowed = self.access.cohort.info, self.config.labels_for_diagnosis
        return [name for name in names if allowed and info[name].label_hash]

    def figure_rows(self, rounds: Sequence[Path]) -> list[FigureRow]:
        """Return what the figure of the rounds shows of a few unlabeled volumes, by the files with their labels."""
        names = self.access.unlabeled[:: max(1, len(self.access.unlabeled) // FIGURE_ROWS)][:FIGURE_ROWS]
        labels, known = [load_labels(path, names) for path in rounds], self.diagnosed(names)
        truth = {name: self.access.label(name) for name in known}
        return [(name, self.access.image(name), truth.get(name), [each[name] for each in labels]) for name in names]

    def augmentation(self) -> Augmentation:
        """Return the augmentation that ``--augmentation`` names; warps of the template need registration."""
        kinds, warps = self.config.augmentation, None
        if "template" in kinds:
            self.atlas.register_all(self.progress)
            warps = self.atlas.warps()
        spacing = self.access.cohort.info[self.access.labeled[0]].geometry.spacing
        return Augmentation("spatial" in kinds, "intensity" in kinds, warps, local="local" in kinds, spacing=spacing)

    def _vote(self, pseudo: PseudoLabels) -> PseudoLabels:
        """Let the nearest certain volumes (by global feature) vote on the uncertain ones."""
        config, features = self.config, self.access.global_features()
        refined = refine(
            pseudo.labels, pseudo.uncertainty, features, config.num_classes, config.knn_k, config.uncertainty_quantile
        )
        # The model's confidence was in other labels than these.
        full = {name: np.full_like(label, 255) for name, label in refined.items()}
        labels, confidence = pseudo.labels | refined, pseudo.confidence | full
        expected = {name: values for name, values in pseudo.expected.items() if name not in refined}
        return replace(pseudo, labels=labels, confidence=confidence, expected=expected, refined=list(refined))

    def _fuse(
        self, pseudo: PseudoLabels, predicted: Mapping[str, np.ndarray], former: PseudoLabels | None, better: bool
    ) -> PseudoLabels:
        """Correct every volume where the model is uncertain, by registered neighbors and the templates."""

        def probabilities(name: str) -> np.ndarray:
            if name in predicted:
                return predicted[name].astype(np.float32)
            return self.atlas.registered(name).probabilities  # those of a template's label

        def label(name: str) -> tuple[Prediction, list[tuple[float, ...]]]:
            fused, (consensus, judges) = fuse(name, self.atlas, probabilities), self.atlas.opinions(name)
            judged = [judge(opinion, judges) for opinion in (fused, consensus, probabilities(name))]
            return self._label(self.atlas.on_volume(name, fused)), judged

        names = self.access.unlabeled
        predictions, judged = zip(*share_out(label, names, self.progress, "fusion", cpu_threads()), strict=True)
        now, first, network = (dict(zip(names, values, strict=True)) for values in zip(*judged, strict=True))
        fused = self._collect(predictions)
        changed = [name for name in names if (fused.labels[name] != pseudo.labels[name]).any()]
        measured = {"expected": now, "reliability": reliability(list(network.values()), list(pseudo.expected.values()))}
        fused = replace(fused, uncertainty=pseudo.uncertainty, refined=changed, **measured)
        return fused if former is None else self._guard(fused, former, first, better)

    def _guard(
        self, pseudo: PseudoLabels, former: PseudoLabels, first: Mapping[str, tuple[float, ...]], better: bool
    ) -> PseudoLabels:
        """Keep the former label where the new one is not better; all of them after a network that has not learned.

        Args:
            better: whether the network has learned whatever the judges say.
            first: expected Dice per class of the labels of round 0, by the same judges as those of ``pseudo``.
        """
        increases = {name: error_increase(pseudo.expected[name], first[name]) for name in first}
        worse = [name for name, increase in increases.items() if increase > TOLERANCE]
        if not better and (mean := float(np.mean(list(increases.values())))) > MEAN_TOLERANCE:
            self.say(
                f"the Dice error that is expected of the new labels is {100 * mean:.0f} % larger than that of round 0: "
                "the network has not learned, and all labels stay as they were"
            )
            worse = list(first)
        elif worse:
            self.say(f"the label of the round before is kept for {listed(worse, 5)}: the new one is not better")
        return keep_former(pseudo, former, worse)

    def _label(self, probabilities: Tensor) -> Prediction:
        """Return the label map of class probabilities (C, W, H, D), with the user's post-processing."""
        prediction = Prediction.from_probabilities(probabilities)
        if not self.config.largest_component:
            return prediction
        return without_islands(prediction, probabilities, self.config.num_classes)

    def _collect(self, predictions: Iterable[Prediction]) -> PseudoLabels:
        """Combine predictions of the unlabeled volumes with the true labels of the labeled ones."""
        named = dict(zip(self.access.unlabeled, predictions, strict=True))
        labels = {name: self.access.label(name) for name in self.access.labeled}
        labels |= {name: prediction.label for name, prediction in named.items()}
        confidence = {name: p.confidence for name, p in named.items() if p.confidence is not None}
        return PseudoLabels(labels, confidence=confidence)
