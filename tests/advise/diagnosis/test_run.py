"""``fv.diagnose`` on a model whose attention is uniform: every figure is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests import words
from tests.advise.diagnosis import counting

from foveate.advise.diagnosis import Diagnosis, diagnose, run
from foveate.errors import FoveateError
from foveate.tasks import Item, answer

FAST = {"max_new_tokens": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def planted() -> Iterator[tuple[Any, list[Item], list[bool], Diagnosis]]:
    model, (items, right) = counting.model(), counting.items()
    yield model, items, right, diagnose(model, words.tokenizer(), items, right, **FAST)


def test_the_planted_outcomes_are_the_models_own(planted: Any) -> None:
    model, items, right, _ = planted
    replies = answer(model, words.tokenizer(), items, max_new_tokens=1)
    assert [item.right(reply) for item, reply in zip(items, replies, strict=True)] == right


def test_shares_of_a_uniform_model_are_shares_of_the_tokens(planted: Any) -> None:
    *_, found = planted
    for one in found.items:
        assert one.tokens == 10
        # of the evidence's three words in a passing item the first is the sink
        counted = {"evidence": 2, "sink": 1, "passages": 4, "question": 3, "rest": 0}
        for part, count in counted.items():
            assert one.last[part] == pytest.approx(count / 10, abs=1e-6), (one.id, part)
            assert one.answer[part] == pytest.approx(count / 10, abs=1e-6)
        assert (one.reading, one.others) == (pytest.approx(0.2), pytest.approx(0.2))
        assert one.entropy == pytest.approx(2.302585, abs=1e-5)


def test_raising_mends_and_hiding_breaks(planted: Any) -> None:
    *_, found = planted
    for one in found.items:
        if one.right:
            assert (one.raised, one.control, one.hidden) == (None, None, False)
        else:
            assert (one.raised, one.control, one.hidden) == (True, False, False)
    assert found.verdict == "attention"
    said = " ".join(found.sentences)
    assert "6 of 12 items fail." in said
    assert "mends 6 of 6 (raising another passage mends 0; p = 0.031)" in said
    assert "attention is part of the trouble" in said


def test_figures_are_those_of_the_items(planted: Any) -> None:
    *_, found = planted
    row = found["raised"]
    assert (row.failing, row.n_failing, row.n_passing) == (1.0, 6, 0)
    assert row.p == pytest.approx(2 / 2**6)
    assert (found["control"].failing, found["evidence.last"].passing) == (0.0, pytest.approx(0.2))
    assert found["evidence.last"].p == 1.0  # the same everywhere
    assert found["place.middle"].failing == 6 and found["place.first"].passing == 6
    assert found["place.inner"].p == pytest.approx(2 / 924)
    assert "evidence in the middle of the context (100 % on failures" in " ".join(found.sentences)
    with pytest.raises(FoveateError, match="no figure 'nonsense'"):
        found["nonsense"]


def test_a_batch_finds_what_one_at_a_time_finds(planted: Any) -> None:
    model, items, right, found = planted
    alone = diagnose(model, words.tokenizer(), items, right, max_new_tokens=1, batch_size=1)
    for one, other in zip(
        sorted(found.items, key=lambda i: i.id), sorted(alone.items, key=lambda i: i.id),
        strict=True,
    ):  # fmt: skip
        assert one.last == pytest.approx(other.last, abs=1e-6)
        assert (one.hidden, one.raised, one.reply) == (other.hidden, other.raised, other.reply)
    assert alone.sentences == found.sentences


def test_what_it_found_survives_json(planted: Any) -> None:
    *_, found = planted
    again = Diagnosis.of(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found
    assert repr(found).startswith("6 of 12 items fail.") and "right with the evidence" in repr(
        found
    )
    assert "<table" in found._repr_html_() and "6 of 12" in found._repr_html_()
    with pytest.raises(FoveateError, match="something else"):
        Diagnosis.of({"sentences": ["a"]})


def test_where_raising_mends_nothing_it_says_so() -> None:
    items = [
        counting.item(f"n{n}", (3, 4, 4, 4, 4, 4, 4, 4), (10 + n, 5), (4, 6), evidence=1,
                      answer=40 + n)
        for n in range(14)
    ]  # fmt: skip
    found = diagnose(
        counting.model(), words.tokenizer(), items, [False] * 14, max_new_tokens=1, batch_size=16
    )
    assert found.verdict == "elsewhere"
    assert "mends 0 of 14 (raising another passage mends 0; p = 1)" in " ".join(found.sentences)
    assert "attention on the evidence is not shown to be the trouble" in found.sentences[-1]
    assert "There are 0 passing items: too few" in " ".join(found.sentences)
    assert all(row.p is None for row in found.figures if row.group != "did it matter")


def test_items_without_context() -> None:
    items = [Item(str(n), words.text(10 + n, 60, 61), words.text(40), raw=True) for n in range(3)]
    found = diagnose(counting.model(), words.tokenizer(), items, [False] * 3, **FAST)
    assert found.verdict == "elsewhere"
    assert "No context was found" in found.sentences[1] and "none was" in found.sentences[-1]
    assert found["sink.last"].failing == pytest.approx(1 / 3)
    assert "evidence.last" not in found
    assert all(one.located == "nowhere" and one.raised is None for one in found.items)


def test_where_nothing_fails_nothing_is_asked() -> None:
    items, _ = counting.items(0, 3)
    found = diagnose(counting.model(), words.tokenizer(), items, [True] * 3, **FAST)
    assert found.sentences == ("None of the 3 items fails: there is nothing to diagnose.",)
    assert not found.items


def test_time_makes_a_seeded_balanced_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    items, right = counting.items(6, 6)
    monkeypatch.setattr(run, "_affordable", lambda *_: 4)
    told: list[tuple[int, int]] = []
    once = diagnose(
        counting.model(), words.tokenizer(), items, right, seconds=60.0, seed=3, **FAST,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    again = diagnose(
        counting.model(), words.tokenizer(), items, right, seconds=60.0, seed=3, **FAST
    )
    assert sorted(one.right for one in once.items) == [False, False, True, True]
    assert [one.id for one in once.items] == [one.id for one in again.items]
    assert "Looked at: 2 failing and 2 passing ones, drawn by lot" in once.sentences[0]
    assert told[0][0] == 0  # from the beginning
    assert told[-1] == (12, 12)  # 4 looked at, 4 hidden, 2 raised, 2 controls


def test_what_can_be_afforded_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    items, right = counting.items(18, 0)
    cases = [run.Places.of(item, good) for item, good in zip(items, right, strict=True)]
    clock = iter([0.0, 4.0] * 3)  # a batch of 4 takes 4 s: an answer 1 s, an item 4 answers
    monkeypatch.setattr(run.time, "perf_counter", lambda: next(clock))
    model = counting.model()
    for seconds, fit in ((36.0, 8), (67.0, 12), (68.0, 16)):
        assert run._affordable(model, words.tokenizer(), cases, seconds, 4, 1) == fit
    assert run._affordable(None, None, cases, 36.0, 4, 1, 1.0) == 8  # no batch is asked
    assert run._affordable(None, None, cases, 0.1, 4, 1, 1.0) == 4


def test_time_that_is_up_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    items, right = counting.items(6, 6)
    monkeypatch.setattr(run, "_affordable", lambda *_: 12)
    clock = iter([0.0, *[1000.0] * 100])
    monkeypatch.setattr(run.time, "perf_counter", lambda: next(clock))
    found = diagnose(counting.model(), words.tokenizer(), items, right, seconds=60.0, **FAST)
    assert len(found.items) == 8  # two batches, as the lot drew them, and no more
    assert sum(one.right for one in found.items) == 4
    assert all(one.hidden is not None for one in found.items)
    assert sum(one.raised is not None for one in found.items) == 4
    assert "Looked at: 4 failing and 4 passing ones" in found.sentences[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"items": []}, "takes the items of a task"),
        ({"right": [True]}, "1 outcomes for 2 items"),
        ({"right": [True, "no"]}, "True where it was answered rightly"),
        ({"gain": 1.0}, "above 1"),
        ({"seconds": 0}, "above 0"),
        ({"pace": 0}, "pace=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens=1.5"),
        ({"model": "smollm2"}, "a model that generates"),
    ],
)
def test_bad_input(given: dict[str, Any], said: str) -> None:
    items, right = counting.items(1, 1)
    known = {"model": counting.model(), "tokenizer": words.tokenizer(), "items": items,
             "right": right} | given  # fmt: skip
    with pytest.raises(FoveateError, match=said):
        diagnose(**known)


def test_two_items_of_one_id_are_refused() -> None:
    items, _ = counting.items(1, 0)
    with pytest.raises(FoveateError, match="Two items have the id 'bad 0'"):
        diagnose(counting.model(), words.tokenizer(), items * 2, [False, False])


def test_a_model_that_reads_both_ways_is_refused() -> None:
    from tests.families import build

    items, right = counting.items(1, 1)
    with pytest.raises(FoveateError, match="reads from left to right"):
        diagnose(build("t5"), words.tokenizer(), items, right)
