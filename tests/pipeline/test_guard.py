"""Labels that are only replaced by better ones, and a network that has not learned."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from semisam_o1.pipeline.pseudo_labeling import CohortLabels
from semisam_o1.refinement.pseudo_labels import PseudoLabels

# By the judges: b is as good as in round 0, a and c are worse, c by more than may be.
FIRST, NOW = {"a": (0.8,), "b": (0.8,), "c": (0.8,)}, {"a": (0.77,), "b": (0.8,), "c": (0.75,)}


def guarded(now: dict[str, tuple[float, ...]], better: bool) -> tuple[PseudoLabels, list[str]]:
    """Return the labels that are kept (0) or replaced (1), and what is said."""
    former, new = (
        PseudoLabels({name: np.full((2, 3, 4), value, np.uint8) for name in now}, expected=expected)
        for value, expected in ((0, FIRST), (1, now))
    )
    said: list[str] = []
    return CohortLabels._guard(SimpleNamespace(say=said.append), new, former, FIRST, better), said


def test_a_label_that_is_judged_worse_is_not_taken() -> None:
    labels, said = guarded(NOW | {"a": (0.8,)}, better=False)
    assert {name: int(label.max()) for name, label in labels.labels.items()} == {"a": 1, "b": 1, "c": 0}
    assert labels.kept == ["c"] and "kept for c" in said[0]


def test_a_network_that_has_not_learned_changes_nothing_unless_it_validates_better() -> None:
    labels, said = guarded(NOW, better=False)
    assert not any(label.any() for label in labels.labels.values())
    assert "the network has not learned" in said[0]
    labels, said = guarded(NOW, better=True)
    assert labels.kept == ["c"] and "kept for c" in said[0]
