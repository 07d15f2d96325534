"""The labels of a cohort: spread in round 0, predicted anew and refined after each round of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semisam_o1.core import distributed
from semisam_o1.core.progress import ProgressFn
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.prediction import Prediction, to_prediction
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.sampling.augmentation import Augmentation
from semisam_o1.data.sampling.fields import resize
from semisam_o1.data.sampling.store import VolumeStore
from semisam_o1.features.extract import VolumeFeatures
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.propagation import PROPAGATIONS, Templates
from semisam_o1.propagation.cohort import CohortAtlas, build_atlas
from semisam_o1.propagation.description import Scan
from semisam_o1.propagation.warps import make_warps
from semisam_o1.refinement.components import largest_components
from semisam_o1.refinement.fusion import fuse, on_grid
from semisam_o1.refinement.neighbors import refine
from semisam_o1.refinement.pseudo_labels import PseudoLabels, mean_entropy


class CohortLabels:
    """Labels the unlabeled volumes of a run.

    Args:
        features: of all training volumes; ``features_key`` names their kind.
        cache: where the atlas keeps what it computes.
        device: that registers.
        progress: iterates over volumes; able to stop.
        say: tells the user.
    """

    def __init__(
        self,
        config: TrainConfig,
        cohort: Cohort,
        store: VolumeStore,
        features: Mapping[str, VolumeFeatures],
        features_key: str,
        cache: ArrayCache,
        device: torch.device,
        progress: ProgressFn,
        say: Callable[[str], None],
    ):
        self.config, self.cohort, self.store = config, cohort, store
        self.features, self.features_key = features, features_key
        self.cache, self.device, self.progress, self.say = cache, device, progress, say

    @cached_property
    def atlas(self) -> CohortAtlas:
        """The cohort in the template's frame; what it needs is computed when it is asked for."""
        described = self.config.features != "builtin"  # the built-in ones, it computes itself and finer
        return build_atlas(
            templates={name: self._true_label(name) for name in self.cohort.labeled},
            scan=lambda name: Scan(self.store.image(name).cpu().numpy(), self.features[name] if described else None),
            key=lambda name: self.cohort.info[name].hash,
            similarity={name: features.whole for name, features in self.features.items()},
            num_classes=self.config.num_classes,
            neighbors=self.config.knn_k,
            cache=self.cache,
            features_key=self.features_key,
            device=self.device,
            registered=self.config.registration,
        )

    def propagate(self) -> PseudoLabels:
        """Round 0: spread the labels of the labeled volumes."""
        templates = Templates(
            names=self.cohort.labeled,
            label=self._true_label,
            shape=self._shape,
            features=self.features,
            num_classes=self.config.num_classes,
            atlas=lambda: self.atlas,
            share=self._share,
            warn=self.say,
        )
        return self._collect(PROPAGATIONS[self.config.propagation](templates, self.cohort.unlabeled))

    def relabel(self, predict: Callable[[Tensor], Tensor]) -> PseudoLabels:
        """Label the unlabeled volumes with a trained model, and correct what it is unsure of.

        Args:
            predict: volume (W, H, D) → class probabilities (C, W, H, D).
        """
        fusing = self.config.refinement == "fusion"
        names = self.cohort.unlabeled

        def label(name: str) -> tuple[Prediction, float, np.ndarray | None]:
            probabilities = predict(self.store.image(name))
            coarse = on_grid(probabilities, self.atlas.atlas.grid(self._shape(name))) if fusing else None
            return self._cleaned(to_prediction(probabilities)), mean_entropy(probabilities), coarse

        results = distributed.share_out(label, names, self.progress, "relabeling")
        pseudo = self._collect([result for result, _, _ in results])
        pseudo.uncertainty = {name: entropy for name, (_, entropy, _) in zip(names, results, strict=True)}
        if fusing:
            self._fuse(pseudo, {name: coarse for name, (_, _, coarse) in zip(names, results, strict=True)})
        else:
            self._vote(pseudo)
        return pseudo

    def augmentation(self) -> Augmentation:
        """Return what ``--augmentation`` names, made ready."""
        kinds, names, warps = self.config.augmentation, self.cohort.unlabeled, None
        if "template" in kinds:
            self._share(lambda name: self.atlas.placed(name).gain, names, "registration")
            warps = make_warps(self.atlas, self.cohort.labeled[0], names, self.store.image, self.store.device)
        return Augmentation("spatial" in kinds, "intensity" in kinds, warps)

    def _vote(self, pseudo: PseudoLabels) -> None:
        """Let the nearest certain volumes (by global feature) vote on the uncertain ones, in place."""
        refined = refine(
            pseudo.labels,
            pseudo.uncertainty,
            {name: features.whole for name, features in self.features.items()},
            self.config.num_classes,
            self.config.knn_k,
            self.config.uncertainty_quantile,
        )
        pseudo.labels.update(refined)
        pseudo.refined = list(refined)
        # How sure the model was of other labels says nothing about these.
        pseudo.confidence.update((name, np.full_like(label, 255)) for name, label in refined.items())

    def _fuse(self, pseudo: PseudoLabels, predicted: Mapping[str, np.ndarray]) -> None:
        """Correct the regions of every volume that the model is unsure of, in place."""

        def opinion(name: str) -> np.ndarray:
            known = predicted.get(name)  # a template's label needs no prediction
            return self.atlas.placed(name).probabilities if known is None else known.astype(np.float32)

        def fused(name: str) -> Prediction:
            return self._cleaned(
                to_prediction(resize(torch.from_numpy(fuse(name, self.atlas, opinion)), self._shape(name)))
            )

        corrected = self._collect(self._share(fused, self.cohort.unlabeled, "fusion"))
        pseudo.refined = [n for n in self.cohort.unlabeled if (corrected.labels[n] != pseudo.labels[n]).any()]
        pseudo.labels, pseudo.confidence = corrected.labels, corrected.confidence

    def _cleaned(self, result: Prediction) -> Prediction:
        """Remove what cannot be anatomy, if the user wants it so."""
        if not self.config.largest_component:
            return result
        return result._replace(label=largest_components(result.label, self.config.num_classes))

    def _collect(self, results: Sequence[Prediction]) -> PseudoLabels:
        """Put the labels of the unlabeled volumes and the templates' own together."""
        named = dict(zip(self.cohort.unlabeled, results, strict=True))
        labels = {name: self._true_label(name) for name in self.cohort.labeled}
        labels.update((name, result.label) for name, result in named.items())
        known = {name: result.confidence for name, result in named.items() if result.confidence is not None}
        return PseudoLabels(labels, confidence=known)

    def _share(self, work: Callable[[str], Any], names: Sequence[str], description: str) -> list[Any]:
        """Return ``work`` of every name, shared out over ranks and threads."""
        return distributed.share_out(work, names, self.progress, description, distributed.cpu_threads())

    def _true_label(self, name: str) -> np.ndarray:
        return self.store.label(name).cpu().numpy()

    def _shape(self, name: str) -> tuple[int, int, int]:
        return self.cohort.info[name].shape
