"""Volumes placed once, neighbors registered once, labels carried between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from balls import dice, scan
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.sampling.fields import resize
from semisam_o1.features.builtin import BuiltinFeatures
from semisam_o1.propagation.atlas import AtlasPropagation
from semisam_o1.propagation.cohort import CohortAtlas, build_atlas
from semisam_o1.propagation.description import Scan
from semisam_o1.propagation.warps import make_warps

SCANS = {
    "template": scan(),
    "a": scan((28, 28, 22), shift=(1, 2, 0), seed=1),
    "b": scan((26, 30, 24), shift=(-2, 0, 1), seed=2),
    "c": scan((25, 31, 22), shift=(0, -2, 1), seed=3),
}


def make_cohort(folder: Path, neighbors: int = 2) -> CohortAtlas:
    features = BuiltinFeatures()
    return build_atlas(
        templates={"template": SCANS["template"][1]},
        scan=lambda name: Scan(SCANS[name][0]),
        key=lambda name: f"key-{name}",
        similarity={name: features.global_feature(features(image)) for name, (image, _) in SCANS.items()},
        num_classes=3,
        neighbors=neighbors,
        cache=ArrayCache(folder),
        features_key="builtin",
        device=torch.device("cpu"),
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortAtlas:
    return make_cohort(tmp_path_factory.mktemp("cache"))


def score(probabilities: np.ndarray, name: str) -> float:
    label = SCANS[name][1]
    predicted = resize(torch.from_numpy(probabilities), label.shape).argmax(0).numpy()
    return min(dice(predicted, label, 1), dice(predicted, label, 2))


def test_neighbors_are_the_nearest_by_cosine(cohort: CohortAtlas) -> None:
    similarity = cohort._similarity
    for name in SCANS:
        others = cohort.neighbors(name)
        assert len(others) == 2
        cosine = {other: similarity[name] @ similarity[other] for other in SCANS if other != name}
        assert others == sorted(cosine, key=cosine.get, reverse=True)[:2]


def test_true_labels_of_neighbors_are_carried_over_exactly_enough(cohort: CohortAtlas) -> None:
    def truth(name: str) -> np.ndarray:
        return np.stack([SCANS[name][1] == c for c in range(3)]).astype(np.float32)

    carried = cohort.ask_neighbors("a", truth)
    np.testing.assert_allclose(carried.sum(axis=0), 1, atol=1e-5)
    assert score(carried, "a") > 0.85
    assert score(cohort.consensus("b"), "b") > 0.85


def test_what_was_computed_is_found_again(cohort: CohortAtlas, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cohort.placed("a"), cohort.consensus("a")
    again = make_cohort(cohort._cache.folders[0])
    for name in ("place", "register"):
        monkeypatch.setattr(AtlasPropagation, name, lambda *arguments: pytest.fail("computed again"))
    assert again.placed("a").gain == first[0].gain
    np.testing.assert_array_equal(again.placed("a").places, first[0].places)
    np.testing.assert_array_equal(again.consensus("a"), first[1])


def test_the_templates_are_known_without_registration(cohort: CohortAtlas) -> None:
    placed = cohort.placed("template")
    np.testing.assert_array_equal(placed.probabilities.argmax(axis=0), SCANS["template"][1])
    voxels = cohort.atlas.frame_voxels(placed.places)
    np.testing.assert_allclose(voxels, np.indices(SCANS["template"][0].shape), atol=1e-4)


def test_warps_give_the_template_the_shape_of_the_donor(cohort: CohortAtlas) -> None:
    from semisam_o1.data.sampling.augmentation import Warp, warp_coords
    from semisam_o1.data.sampling.fields import indices, sample

    images = {name: torch.from_numpy(image) for name, (image, _) in SCANS.items()}
    warps = make_warps(cohort, "template", ["a"], images.__getitem__, torch.device("cpu"))
    (donor,) = warps.donors
    template, truth = (torch.from_numpy(SCANS[name][1]) for name in ("template", "a"))
    scores = []
    for strength in (0.0, 1.0):
        places = warp_coords(indices(truth.shape), Warp(donor, strength, 0.0))
        warped = sample(template[None].float(), places, "nearest")[0]
        scores.append(dice(warped.numpy(), truth.numpy(), 1))
    assert scores[1] > 0.85
    assert scores[1] > scores[0] - 0.02
