"""Halves that are alike, and how many items it takes to tell anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.advise.split import in_all, items_needed, split, too_few
from foveate.errors import FoveateError
from foveate.statistics import mcnemar

OUTCOMES = st.lists(st.booleans(), min_size=2, max_size=130)


@given(OUTCOMES, st.integers(0, 99))
def test_halves_are_disjoint_whole_and_alike(right: list[bool], seed: int) -> None:
    folds = split(right, seed)
    a, b = folds[0].tuning, folds[0].reporting
    assert sorted(a + b) == list(range(len(right)))
    assert abs(len(a) - len(b)) <= 1
    assert abs(sum(right[i] for i in a) - sum(right[i] for i in b)) <= 1
    assert (len(folds) == 1) == (len(right) >= 100 and sum(not right[i] for i in b) >= 6)
    if len(folds) == 2:
        assert (folds[1].tuning, folds[1].reporting) == (b, a)
    assert split(right, seed) == folds


@given(OUTCOMES, st.integers(0, 99))
def test_every_beginning_has_its_share_of_failures(right: list[bool], seed: int) -> None:
    part = split(right, seed)[0].tuning
    share = sum(right[i] for i in part) / max(1, len(part))
    for m in range(len(part)):
        assert abs(sum(right[i] for i in part[:m]) - share * m) <= 2


@pytest.mark.parametrize(
    ("right", "wrong", "goal", "folds"),
    [(94, 6, "accuracy", 2), (188, 12, "accuracy", 1), (70, 30, "accuracy", 1),
     (90, 13, "speed", 2), (91, 13, "speed", 1), (99, 1, "memory", 2)],
)  # fmt: skip
def test_a_half_that_could_tell_nothing_does_not_report_alone(
    right: int, wrong: int, goal: str, folds: int
) -> None:
    assert len(split([True] * right + [False] * wrong, 3, goal)) == folds


def test_where_one_half_reports_twice_as_many_are_needed() -> None:
    assert in_all(99) == 99 and in_all(100) == 200
    assert (too_few([True] * 41 + [False] * 5) or 0) == in_all(items_needed(5.5 / 94, 0.0) or 0)


def test_another_seed_is_another_split() -> None:
    assert split([True, False] * 20, 0) != split([True, False] * 20, 1)


def test_one_item_cannot_be_split() -> None:
    with pytest.raises(FoveateError, match="two at least"):
        split([True], 0)


@settings(max_examples=6)
@given(st.sampled_from([(0.3, 0.0), (0.25, 0.05), (0.5, 0.1), (0.15, 0.02)]))
def test_so_many_items_have_that_power(shares: tuple[float, float]) -> None:
    n = items_needed(*shares)
    assert n is not None
    rng = np.random.default_rng(0)
    kinds = rng.multinomial(n, [*shares, 1 - sum(shares)], 1500)
    seen = [
        mended > broken
        and mcnemar([0] * mended + [1] * broken + [1], [1] * mended + [0] * broken + [1]) < 0.05
        for mended, broken, _ in kinds.tolist()
    ]
    assert 0.76 < np.mean(seen) < 0.9


def test_no_number_shows_what_is_no_gain() -> None:
    assert items_needed(0.1, 0.1) is None
    assert items_needed(0.1, 0.2) is None
    assert items_needed(0.0502, 0.05) is None
    assert (items_needed(0.06, 0.05) or 0) > 1000


def test_too_few_failures_to_tell() -> None:
    assert too_few([True] * 40 + [False] * 6) is None
    wanted = too_few([True] * 41 + [False] * 5)
    assert wanted is not None and wanted > 46
    assert (too_few([False] * 8) or 0) >= 12
    assert too_few([]) is not None


def test_speed_wants_as_many_as_bound_the_loss() -> None:
    assert too_few([True] * 51, "speed") == 52
    assert too_few([True] * 52, "speed") is None
    assert too_few([False] * 60, "memory") is not None  # nothing that could be lost
