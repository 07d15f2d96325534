"""Splits drawn at random."""

from __future__ import annotations

import itertools

import pytest

from semisam_o1.data.preparation.lists import split


def test_split_puts_the_template_first_and_unlabeled_scans_last_in_train_only() -> None:
    names = [f"s{index:02d}" for index in range(40)]
    labeled = set(names[:30])
    lists = split(reversed(names), labeled, "s07", (0.7, 0.1, 0.2), seed=3)
    assert [len(listed) for listed in lists.values()] == [28, 4, 8]
    assert sorted(itertools.chain(*lists.values())) == names
    assert lists["train.txt"][0] == "s07"
    assert lists["train.txt"][-10:] == names[30:]
    assert lists == split(names, labeled, "s07", (0.7, 0.1, 0.2), seed=3)
    assert lists != split(names, labeled, "s07", (0.7, 0.1, 0.2), seed=4)


@pytest.mark.parametrize(
    ("count", "labeled", "expected"),
    [
        (5, 1, (5, 0, 0)),
        (5, 2, (4, 1, 0)),
        (5, 3, (3, 1, 1)),
        (3, 3, (2, 1, 0)),
        (2, 2, (2, 0, 0)),
        (20, 5, (16, 1, 3)),
    ],
)
def test_split_of_few_scans_keeps_one_to_train_on(count: int, labeled: int, expected: tuple[int, int, int]) -> None:
    names = [f"s{index:02d}" for index in range(count)]
    lists = split(names, set(names[:labeled]), names[0], (0.7, 0.1, 0.2), seed=0)
    assert tuple(len(listed) for listed in lists.values()) == expected
