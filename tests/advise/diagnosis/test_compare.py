"""Tests and intervals against known values and against other libraries."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.advise.diagnosis.compare import counts, fisher, holm, means, permutation

count = st.integers(0, 12)


@settings(max_examples=40)
@given(count, count, count, count)
def test_fisher_is_scipys(a: int, b: int, c: int, d: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert fisher(a, b, c, d) == pytest.approx(stats.fisher_exact([[a, b], [c, d]])[1], abs=1e-9)


def test_fisher_of_the_tea_tasting_lady() -> None:
    assert fisher(3, 1, 1, 3) == pytest.approx(34 / 70)  # Fisher 1935


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=6), st.integers(1, 5))
def test_the_permutation_test_counts_all_ways(values: list[int], at: int) -> None:
    at = min(at, len(values) - 1)

    def apart(order: tuple[int, ...]) -> float:
        return abs(sum(order[:at]) / at - sum(order[at:]) / (len(order) - at))

    ways = [apart(order) for order in permutations(values)]
    wanted = sum(way >= apart(tuple(values)) - 1e-9 for way in ways) / len(ways)
    assert permutation(values[:at], values[at:]) == pytest.approx(wanted)


def test_a_drawn_permutation_test_agrees_with_a_t_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = [0.1 * i for i in range(20)], [0.1 * i + 0.5 for i in range(20)]
    assert permutation(a, b) == pytest.approx(stats.ttest_ind(a, b).pvalue, abs=0.02)
    assert permutation(a, [x + 5 for x in b]) == 1 / 10_000
    assert permutation(a, b, seed=1) == permutation(a, b, seed=1)


def test_holm_of_a_known_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_newcombes_interval_of_his_own_example() -> None:
    row = counts("k", "n", "g", [True] * 56 + [False] * 14, [True] * 48 + [False] * 32)
    assert (row.low, row.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
    assert row.failing == 0.8 and row.passing == 0.6 and row.test == "Fisher"


def test_few_items_are_met_with_silence() -> None:
    row = means("k", "n", "g", "nats", [1.0] * 4, [2.0] * 50)
    assert (row.low, row.high, row.p, row.test) == (None, None, None, "")
    assert (row.failing, row.passing, row.n_failing, row.n_passing) == (1.0, 2.0, 4, 50)
    assert counts("k", "n", "g", [True] * 50, [False] * 4).p is None
    assert means("k", "n", "g", "nats", [], [2.0]).failing is None


def test_numbers_that_are_none_do_not_count() -> None:
    row = means("k", "n", "g", "nats", [1.0, float("nan")], [3.0])
    assert (row.failing, row.n_failing) == (1.0, 1)


def test_a_difference_has_an_interval_that_holds_it() -> None:
    row = means("k", "n", "g", "nats", [1.0, 1.1, 0.9, 1.2, 0.8], [2.0, 2.2, 1.8, 2.1, 1.9])
    assert row.low is not None and row.high is not None and row.p is not None
    assert row.low < -1.0 < row.high < 0
    assert row.p == pytest.approx(2 / 252)
