"""The cases are sound: one answer, one decoy, and a judge that is not fooled."""

from __future__ import annotations

from typing import Any

import pytest

from foveate.errors import FoveateError
from foveate.tasks.facts import LIGHTHOUSE, TOPICS, cases


def test_each_case_has_one_answer_and_one_decoy() -> None:
    made = cases(36)
    assert len({c.id for c in made}) == 36 and len({c.text for c in made}) == 36
    for case in [*made, LIGHTHOUSE]:
        assert len(set(case.values)) == len(set(case.context)) == 4
        assert case.evidence != case.decoy and {case.evidence, case.decoy} <= set(case.context)
        assert case.answer in case.evidence and case.decoy_answer in case.decoy
        name = set(case.question.rstrip(".").split())
        overlap = [len(name & set(s.rstrip(".").split())) for s in case.context]
        assert case.context[overlap.index(max(overlap))] == case.evidence


def test_no_position_is_favoured_and_every_topic_is_there() -> None:
    made = cases(36)
    assert {c.id.split("-")[0] for c in made} == {t.name for t in TOPICS}
    asked = [c.context.index(c.evidence) for c in made]
    assert [asked.count(i) for i in range(4)] == [9, 9, 9, 9]


def test_seeds() -> None:
    assert cases(5, seed=3) == cases(9, seed=3)[:5]
    assert cases(5, seed=3) != cases(5, seed=4)


def test_the_judge() -> None:
    case = LIGHTHOUSE
    assert case.right("It was built in 1877.") and not case.follows("It was built in 1877.")
    assert case.follows("1821") and not case.right("1821")
    assert not case.right("1877 or 1934") and case.says("1877 or 1934") is None
    assert not case.right("18775") and not case.right("") and not case.right("in the 1800s")


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "six"])
def test_bad_counts_are_refused(n: Any) -> None:
    with pytest.raises(FoveateError, match="whole number"):
        cases(n)
