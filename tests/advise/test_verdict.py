"""What is claimed: only what was chosen, only what is sure, and in words that say so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.advise.goals import gains, loss_bound
from foveate.advise.verdict import verdict
from foveate.errors import FoveateError
from recorded import NOTHING, advised, candidate, coins, items, recorded

A, B = candidate("a"), candidate("b", "prompt")


@pytest.mark.parametrize("n", [40, 120])
def test_a_gain_that_is_there_is_claimed(n: int) -> None:
    base = coins(n, 0.2, 0)
    found = advised({"nothing": base, "a": coins(n, 0.8, 1), "b": coins(n, 0.2, 2)}, [A, B])
    assert found.claimed and found.recommended == "a" and found.finalists[0].name == "a"
    best = found.finalists[0]
    assert found.folds == (2 if n < 100 else 1)
    assert best.gain.n == (n if n < 100 else n // 2)
    assert best.gain.low > 0 and best.p < 0.05
    assert best.gain.value == pytest.approx((best.mended - best.broken) / best.gain.n)
    assert "bootstrap" in found.reason and "McNemar" in found.reason
    assert found.reason.startswith("Likely real") and len(found.reason.splitlines()) == 2
    assert ("Both halves chose the same" in found.reason) == (n < 100)


def test_where_nothing_differs_nothing_is_claimed() -> None:
    base = coins(60, 0.4, 0)
    found = advised({"nothing": base, "a": base, "b": base}, [A, B])
    assert not found.claimed and found.recommended == "nothing"
    assert "Nothing that was tried was better" in found.reason


def test_only_what_was_chosen_can_be_claimed() -> None:
    """A policy that is good on the reporting part alone is shown, and not recommended."""
    from foveate.advise.search import search
    from foveate.advise.split import split

    n = 120
    base = [i % 3 == 0 for i in range(n)]
    fold = split(base, 0)[0]
    lucky = [True if i in fold.reporting else base[i] for i in range(n)]
    ask, every = recorded({"nothing": base, "a": lucky}), items(n)
    before = ask(NOTHING, every)
    one = search(ask, [NOTHING, A], [every[i] for i in fold.tuning],
                 [before[i] for i in fold.tuning], answers=999)  # fmt: skip
    found = verdict(ask, NOTHING, every, before, [fold], [one], samples=500)
    assert found.finalists[0].gain.low > 0.3 and found.finalists[0].p < 0.001
    assert not found.claimed and found.recommended == "nothing"


def test_halves_that_choose_differently_are_told() -> None:
    from foveate.advise.search import Searched
    from foveate.advise.split import split

    n = 60
    rows = {"nothing": coins(n, 0.2, 0), "a": coins(n, 0.8, 1), "b": coins(n, 0.9, 2)}
    ask, every = recorded(rows), items(n)
    base = ask(NOTHING, every)
    folds = split([one.right for one in base], 0)
    chosen = [Searched(A, (A,), (), True), Searched(B, (B,), (), True)]
    found = verdict(ask, NOTHING, every, base, folds, chosen, samples=500)
    assert found.claimed and found.recommended in ("a", "b")
    assert "chose differently (a; b)" in found.reason
    assert f"{found.recommended} is what all items choose by the same rule" in found.reason
    # the gain is that of choosing so, neither policy's own
    mixed = sum(rows["a"][i] for i in folds[0].reporting) + sum(
        rows["b"][i] for i in folds[1].reporting
    )
    assert found.finalists[0].gain.value == pytest.approx((mixed - sum(rows["nothing"])) / n)


def test_what_no_half_chose_is_not_recommended() -> None:
    """It entered no test, however good it looks on all items."""
    from foveate.advise.search import Searched
    from foveate.advise.split import split

    n = 60
    rows = {"nothing": [0] * n, "a": coins(n, 0.6, 1), "b": [1] * n}
    ask, every = recorded(rows), items(n)
    base = ask(NOTHING, every)
    folds = split([one.right for one in base], 0)
    found = verdict(ask, NOTHING, every, base, folds, [Searched(A, (A, B), (), True)] * 2,
                    samples=500)  # fmt: skip
    assert found.claimed and found.recommended == "a" and found.choices == ("a", "a")
    assert "Both halves chose the same: a." in found.reason
    one = Searched(NOTHING, (A,), (), True), Searched(A, (A, B), (), True)
    found = verdict(ask, NOTHING, every, base, folds, one, samples=500)
    assert found.recommended == "a" and "chose differently (nothing; a)" in found.reason
    assert "not among these (foveate compare)" in found.reason


@pytest.mark.parametrize("n", [60, 120])
def test_what_is_chosen_and_does_not_go_with_what_reports_is_told(n: int) -> None:
    from foveate.advise.search import search
    from foveate.advise.split import split

    ask, every = recorded({"nothing": [0] * n, "a": [1] * n}), items(n)
    base = ask(NOTHING, every)
    folds = split([one.right for one in base], 0)
    found = [search(ask, [NOTHING, A], [every[i] for i in fold.tuning], base[: len(fold.tuning)],
                    answers=999) for fold in folds]  # fmt: skip

    def refuses(one, some):
        if one is A:
            raise IndexError("position 70 of 64")
        return ask(one, some)

    said = verdict(refuses, NOTHING, every, base, folds, found, samples=500)
    assert not said.claimed and said.recommended == "nothing" and not said.finalists
    assert "does not go with all of the questions" in said.reason and "70 of 64" in said.reason


@pytest.mark.parametrize(("complete", "sentence"), [(True, "Nothing of what"), (False, "no time")])
def test_where_nothing_was_compared_nothing_is_said_of_it(complete: bool, sentence: str) -> None:
    from foveate.advise.search import Searched
    from foveate.advise.split import split

    ask, every = recorded({"nothing": [0] * 40}), items(40)
    base = ask(NOTHING, every)
    found = verdict(ask, NOTHING, every, base, split([False] * 40, 0),
                    [Searched(NOTHING, (), (), complete)] * 2, samples=100)  # fmt: skip
    assert sentence in found.reason and "was tried was better" not in found.reason


def test_a_gain_within_chance_says_how_many_items_it_would_take() -> None:
    n = 40
    base = [0, 1, 1, 1] * 10
    row = list(base)
    row[0] = row[4] = row[8] = row[12] = 1
    found = advised({"nothing": base, "a": row}, [A])
    assert not found.claimed and found.needed is not None and found.needed > n
    assert str(found.needed) in found.reason


@given(st.integers(0, 20), st.integers(0, 20), st.integers(41, 300))
def test_the_bound_of_a_loss(mended: int, broken: int, n: int) -> None:
    high = loss_bound(mended, broken, n)
    assert (broken - mended) / n <= high <= 1
    assert loss_bound(mended, broken + 1, n) > high
    assert loss_bound(2 * mended, 2 * broken, 2 * n) < high


@pytest.mark.parametrize("n", [10, 52, 500])
def test_no_change_is_no_proof_of_no_loss(n: int) -> None:
    assert loss_bound(0, 0, n) == pytest.approx(1.6449**2 / (n + 1.6449**2), abs=1e-6)


def test_speed_that_keeps_the_answers_is_claimed() -> None:
    rows = {"nothing": [1] * 60, "a": [1] * 60}
    found = advised(rows, [A], goal="speed", seconds={"a": 0.5})
    assert found.claimed and found.finalists[0].gain.value == pytest.approx(0.5)
    assert "5.0 points allowed" in found.reason


def test_speed_that_may_lose_answers_is_not() -> None:
    rows = {"nothing": [1] * 60, "a": [0] + [1] * 59}
    found = advised(rows, [A], goal="speed", seconds={"a": 0.5})
    assert not found.claimed and found.recommended == "nothing"


def test_peaks_of_batches_that_differ_are_not_compared() -> None:
    from foveate.advise.search import Searched
    from foveate.advise.split import split

    ask, every = recorded({"nothing": [0] * 40, "a": [1] * 40}), items(40)
    base = ask(NOTHING, every)
    given = ask, NOTHING, every, base, split([False] * 40, 0), [Searched(A, (A,), (), True)] * 2
    late = verdict(*given, samples=100, cost=lambda one: None).finalists[0]
    assert late.memory is None and late.seconds.value == 1.0
    assert verdict(*given, samples=100).finalists[0].memory == 1.0


def test_memory_is_compared_with_what_was_taken_beside() -> None:
    from foveate.advise.ask import Answered

    before = [Answered("0", "", True, 1.0, 900)]
    after = [Answered("0", "", True, 1.0, 500, beside=1.0, beside_memory=500)]
    assert gains("memory", before, after).tolist() == [0.0]


def test_memory_is_told_where_it_is_known() -> None:
    from foveate.advise.ask import Answered

    none = [Answered("0", "", True, 1.0, None)]
    with pytest.raises(FoveateError, match="peak memory"):
        gains("memory", none, none)


def test_bad_input() -> None:
    with pytest.raises(FoveateError, match="folds and"):
        verdict(recorded({"nothing": [1]}), NOTHING, [], [], [], [])
    with pytest.raises(FoveateError, match="No answer of 'a'"):
        recorded({"nothing": [1]})(A, items(1))


def test_what_looks_better_is_told_by_answers_to_the_same_items() -> None:
    """A cross-fitted gain is of two policies: the chosen one's own answers are what compares."""
    from foveate.advise.verdict import _better, _Pairs

    ask = recorded({"nothing": [0] * 50, "a": [1] * 40 + [0] * 10, "b": [1] * 38 + [0] * 12})
    every, other = items(50), candidate("b")
    known = {c.name: _Pairs(ask(NOTHING, every), ask(c, every)) for c in (A, other)}
    assert _better(A, [A, other], known, "accuracy") is None
    assert _better(other, [other, A], known, "accuracy") == "a"
