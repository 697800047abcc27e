"""Successive halving: within its answers, to the best, and the simplest of the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.advise.ask import OutOfTime
from foveate.advise.search import choose, rungs, search
from foveate.errors import FoveateError
from recorded import NOTHING, candidate, coins, items, recorded

POOL = [candidate(f"c{i}") for i in range(20)]


@given(st.integers(1, 30), st.integers(4, 80), st.integers(0, 3000))
def test_a_plan_keeps_within_its_answers(count: int, n: int, answers: int) -> None:
    plan = rungs(count, n, answers)
    asked, before = 0, 0
    for rung in plan:
        asked += rung.candidates * (rung.items - before)
        before = rung.items
    assert asked <= answers
    assert bool(plan) == (answers >= n)
    if plan:
        assert plan[-1].items == n
        sizes = [rung.candidates for rung in plan]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] <= count
        assert [rung.items for rung in plan] == sorted(rung.items for rung in plan)


def test_with_plenty_of_answers_all_are_asked_everything() -> None:
    assert [(r.candidates, r.items) for r in rungs(20, 25, 500)] == [(20, 25)]


def test_with_few_answers_two_are_kept_so_that_more_are_begun() -> None:
    assert [(r.candidates, r.items) for r in rungs(23, 12, 36)] == [(4, 6), (2, 12)]
    assert rungs(20, 30, 200)[-1].candidates == 3  # three where all are begun anyway


class Counting:
    """Counts what is asked; stops after so many answers."""

    def __init__(self, ask: Any, limit: int = 10**6) -> None:
        self.ask, self.limit = ask, limit
        self.asked: list[tuple[str, str]] = []

    def __call__(self, one: Any, some: Sequence[Any]) -> Any:
        if len(self.asked) + len(some) > self.limit:
            raise OutOfTime
        self.asked += [(one.name, item.id) for item in some]
        return self.ask(one, some)


def matrix(n: int = 30, good: float = 0.9) -> Any:
    rows = {"nothing": coins(n, 0.2, 99)}
    rows |= {one.name: coins(n, 0.2, i) for i, one in enumerate(POOL)}
    rows["c13"] = coins(n, good, 7)
    return recorded(rows)


def searched(ask: Any, answers: int = 10**6, n: int = 30, **more: Any) -> Any:
    every = items(n)
    inner = getattr(ask, "ask", ask)
    return search(ask, [NOTHING, *POOL], every, inner(NOTHING, every), answers=answers, **more)


@pytest.mark.parametrize("answers", [200, 10**6])
def test_the_best_is_found_and_no_cell_is_asked_twice(answers: int) -> None:
    ask = Counting(matrix())
    found = searched(ask, answers)
    assert found.chosen.name == "c13" and found.finalists[0] is found.chosen
    assert len(ask.asked) == len(set(ask.asked)) <= answers
    assert found.complete and len(found.finalists) == 3
    asked = {one.name: one.asked for one in found.tried}
    assert asked["c13"] == 30 and sum(asked.values()) == len(ask.asked)
    assert searched(matrix(), answers) == found


def test_out_of_time_the_last_whole_round_counts() -> None:
    whole = Counting(matrix())
    searched(whole, 200)
    cut = Counting(matrix(), limit=len(whole.asked) - 1)
    found = searched(cut, 200)
    assert not found.complete and found.chosen.name == "c13"


def test_out_of_time_in_the_first_round_those_asked_all_of_it_count() -> None:
    found = searched(Counting(matrix(), limit=30 * 16))
    assert not found.complete and found.chosen.name == "c13"
    found = searched(Counting(matrix(), limit=30 * 13))
    assert {one.name for one in found.finalists} < {f"c{i}" for i in range(13)}


def test_what_the_answers_do_not_hold_is_named() -> None:
    found = searched(matrix(), answers=95)
    assert found.complete and len(found.tried) + len(found.left_out) == len(POOL)
    assert found.left_out[-1] == "c19"


def test_nothing_to_try_is_no_lack_of_time() -> None:
    every = items(9)
    found = search(matrix(9), [NOTHING], every, matrix(9)(NOTHING, every), answers=99)
    assert found.complete and found.chosen is NOTHING and not found.tried


def test_without_one_whole_round_nothing_is_chosen() -> None:
    found = searched(Counting(matrix(), limit=3))
    assert not found.complete and found.chosen is NOTHING and not found.finalists
    assert searched(matrix(), answers=0).chosen is NOTHING


def test_what_does_not_go_here_is_told_and_passed_over() -> None:
    inner = matrix()

    def ask(one: Any, some: Sequence[Any]) -> Any:
        if one.name == "c3":
            raise FoveateError("it has no such layer")
        return inner(one, some)

    ask.ask = inner  # type: ignore[attr-defined]
    found = searched(ask)
    told = {one.name: one for one in found.tried}["c3"]
    assert "no such layer" in told.why and told.asked == 0 and told.dropped_at == 1
    assert found.chosen.name == "c13"


def picked(pool: Sequence[Any], rows: dict[str, list[int]], **more: Any) -> str:
    ask, n = recorded(rows), len(rows["nothing"])
    every = items(n)
    found = {one.name: ask(one, every) for one in pool}
    return choose([NOTHING, *pool], found, ask(NOTHING, every), **more).name


def test_nothing_wins_ties_and_noise() -> None:
    base = [0, 1] * 10
    assert picked([candidate("same")], {"nothing": base, "same": base}) == "nothing"
    one_more = [1, 1] + [0, 1] * 9
    assert picked([candidate("luck")], {"nothing": base, "luck": one_more}) == "nothing"


def test_the_simplest_within_noise_of_the_best() -> None:
    base, good, better = [0] * 20, [1] * 15 + [0] * 5, [0] * 1 + [1] * 16 + [0] * 3
    rows = {"nothing": base, "two": better, "one": good}
    assert picked([candidate("two", parts=2), candidate("one")], rows) == "one"
    rows["one"] = [1] * 4 + [0] * 16
    assert picked([candidate("two", parts=2), candidate("one")], rows) == "two"


def test_a_prompt_before_a_method_then_the_better() -> None:
    rows = {"nothing": [0] * 20, "m": [1] * 15 + [0] * 5, "p": [1] * 15 + [0] * 5}
    assert picked([candidate("m"), candidate("p", "prompt")], rows) == "p"
    rows = {"nothing": [0] * 20, "a": [1] * 14 + [0] * 6, "b": [1] * 15 + [0] * 5}
    assert picked([candidate("a"), candidate("b")], rows) == "b"


def test_speed_is_not_bought_with_answers() -> None:
    rows = {"nothing": [1] * 40, "fast": [0] * 8 + [1] * 32, "sound": [1] * 40}
    seconds = {"fast": 0.2, "sound": 0.6}
    ask, every = recorded(rows, seconds), items(40)
    pool = [candidate("fast"), candidate("sound")]
    found = search(ask, [NOTHING, *pool], every, ask(NOTHING, every), answers=999, goal="speed")
    assert found.chosen.name == "sound"
