"""Volumes and neighbors are registered once; labels are transferred between them."""

from __future__ import annotations

import dataclasses
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ball_cohort import SCANS, make_cohort
from balls import dice
from semisam_o1.propagation import cohort as cohort_module
from semisam_o1.propagation.atlas import AtlasPropagation
from semisam_o1.propagation.cohort import CohortAtlas
from semisam_o1.propagation.keys import AtlasKeys
from semisam_o1.propagation.region import Pose, Region


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortAtlas:
    return make_cohort(tmp_path_factory.mktemp("cache"))


def score(cohort: CohortAtlas, probabilities: np.ndarray, name: str) -> float:
    label = SCANS[name][1]
    predicted = cohort.on_volume(name, probabilities).argmax(0).numpy()
    return min(dice(predicted, label, 1), dice(predicted, label, 2))


def test_threads_describe_the_templates_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def slow(*arguments: object) -> object:
        time.sleep(0.05)
        made.append(arguments)
        return object()

    monkeypatch.setattr(cohort_module, "AtlasPropagation", slow)
    atlas = make_cohort(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: atlas.propagation, range(4)))
    assert len(made) == 1
    assert len(set(map(id, found))) == 1


def test_neighbors_are_the_nearest_by_cosine(cohort: CohortAtlas) -> None:
    similarity = cohort.access.global_features()
    for name in SCANS:
        others = cohort.neighbors(name)
        assert len(others) == 2
        cosine = {other: similarity[name] @ similarity[other] for other in SCANS if other != name}
        assert others == sorted(cosine, key=cosine.get, reverse=True)[:2]


def test_true_labels_of_neighbors_are_carried_over_exactly_enough(cohort: CohortAtlas) -> None:
    def truth(name: str) -> np.ndarray:
        whole = torch.from_numpy(np.stack([SCANS[name][1] == c for c in range(3)]).astype(np.float32))
        return cohort.on_grid(name, whole).astype(np.float32)

    carried = cohort.fuse_neighbors("a", truth)
    np.testing.assert_allclose(carried.sum(axis=0), 1, atol=1e-5)
    assert score(cohort, carried, "a") > 0.85
    assert score(cohort, cohort.consensus("b"), "b") > 0.85


def test_neighbors_start_from_whichever_of_two_places_fits_better(cohort: CohortAtlas) -> None:
    propagation = cohort.propagation
    fixed, moving = (cohort.registered(name) for name in ("a", "b"))
    by_template, by_middle = propagation.pair_starts(fixed, moving)
    shapes = [np.array(SCANS[name][0].shape) for name in ("a", "b")]
    x, y, z = np.array(fixed.region.voxel_coords()[:, 0, 0, 0])
    in_other = moving.region.start + by_middle[:, 0, 0, 0]  # cells are voxels here
    np.testing.assert_allclose(in_other - (shapes[1] - 1) / 2, [x, y, z] - (shapes[0] - 1) / 2, atol=1e-3)
    pair = cohort._compared("a"), cohort._compared("b"), moving.region.grid
    assert propagation.register_pair(*pair, [by_template + 9, by_template]).start == 1
    assert propagation.register_pair(*pair, [by_template, by_template + 9]).start == 0


def test_a_volume_takes_over_the_consensus_of_its_twin(cohort: CohortAtlas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "_template_mismatch", {"template": 0.0, "a": 2.0, "b": 1.9, "c": 2.1}.get)
    assert cohort._twin("a", {"template": 0.1, "b": 0.9, "c": 0.9}) == "b"
    assert cohort._twin("a", {"b": 1.1, "c": 0.9}) is None  # too different; less like the template
    assert cohort._twin("b", {"a": 0.9, "c": 0.9}) is None
    monkeypatch.setattr(cohort, "_twin", lambda name, mismatches: "b" if name == "a" else None)
    assert score(cohort, cohort.consensus("a"), "a") > 0.8


def test_every_volume_is_described_once(cohort: CohortAtlas, monkeypatch: pytest.MonkeyPatch) -> None:
    again, described = make_cohort(cohort._cache.folders[0]), []
    describe = again.propagation.describe
    monkeypatch.setattr(again.propagation, "describe", lambda *volume: described.append(1) or describe(*volume))
    for name in ("a", "b", "a"):
        again.consensus(name)
    assert len(described) == len(again.access.features)
    monkeypatch.setattr(cohort_module, "KEPT_BYTES", 0)
    few = make_cohort(cohort._cache.folders[0])
    for one, other in zip(few.opinions("a"), again.opinions("a"), strict=True):
        assert np.array_equal(one, other)
    assert not few._channels


def test_what_was_computed_is_found_again(cohort: CohortAtlas, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cohort.registered("a"), cohort.consensus("a")
    again = make_cohort(cohort._cache.folders[0])
    for name in ("register", "register_pair"):
        monkeypatch.setattr(AtlasPropagation, name, lambda *arguments: pytest.fail("computed again"))
    assert again.registered("a").relative_improvement == first[0].relative_improvement
    np.testing.assert_array_equal(again.registered("a").frame_coords, first[0].frame_coords)
    np.testing.assert_array_equal(again.consensus("a"), first[1])


def test_turned_volumes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = make_cohort(tmp_path)
    poses = {"a": Pose((0, 0, 0)), "b": Pose((0, 0, 0), 1.0, (1, 0, 2), (False, True, False)), "c": Pose((0, 0, 0))}
    monkeypatch.setattr(cohort, "registered", lambda name: SimpleNamespace(region=SimpleNamespace(pose=poses[name])))
    assert cohort.turned == ["b (+y −x +z)"]


def test_the_keys_tell_what_is_kept(cohort: CohortAtlas) -> None:
    cohort.registered("a")
    keys = AtlasKeys(cohort.access.cohort, 3, "builtin", True)
    assert keys.volume("a") in cohort._cache
    others = [dataclasses.replace(keys, num_classes=2), dataclasses.replace(keys, registration=False)]
    info = cohort.access.cohort.info
    for name, changes in (("template", {"label_hash": "other"}), ("a", {"hash": "other"})):
        changed = info | {name: dataclasses.replace(info[name], **changes)}
        others.append(dataclasses.replace(keys, cohort=dataclasses.replace(cohort.access.cohort, info=changed)))
    assert not any(other.volume("a") in cohort._cache for other in others)


def test_the_templates_are_known_without_registration(cohort: CohortAtlas) -> None:
    registered = cohort.registered("template")
    pasted = cohort.on_volume("template", registered.probabilities)
    np.testing.assert_array_equal(pasted.argmax(0), SCANS["template"][1])
    voxels = cohort.propagation.template_coords(registered)
    np.testing.assert_allclose(voxels, np.indices(SCANS["template"][0].shape), atol=1e-4)


def test_warps_give_the_template_the_shape_of_the_donor(cohort: CohortAtlas) -> None:
    from semisam_o1.data.sampling.augmentation import Warp, warp_coords
    from semisam_o1.data.sampling.fields import indices, sample

    donor = cohort.warps().donors[0]
    template, truth = (torch.from_numpy(SCANS[name][1]) for name in ("template", "a"))
    scores = []
    for strength in (0.0, 1.0):
        places = warp_coords(indices(truth.shape), Warp(donor, strength, 0.0))
        warped = sample(template[None].float(), places, "nearest")[0]
        scores.append(dice(warped.numpy(), truth.numpy(), 1))
    assert scores[1] > 0.85
    assert scores[1] > scores[0] - 0.02


def test_what_is_pasted_into_a_turned_volume_lies_as_it_does_there() -> None:
    whole = torch.rand((2, 5, 6, 7), generator=torch.Generator().manual_seed(0))
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            pose = Pose((0, 0, 0), 1.0, axes, flips)
            size = tuple(whole.shape[1 + axis] - 2 for axis in axes)
            region = Region(pose, tuple(whole.shape[1:]), (1, 1, 1), size, size, (1.0, 1.0, 1.0))
            torch.testing.assert_close(region.paste(region.resample(whole).numpy(), elsewhere=whole), whole)
            ones = region.paste(np.ones((2, *size), np.float32), elsewhere=whole)
            assert (ones == 1).sum() == 2 * 3 * 4 * 5
