"""Sentences say what the items say: counted anew, from items made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.advise.diagnosis.figures import figures
from foveate.advise.diagnosis.heads import Located
from foveate.advise.diagnosis.look import PARTS
from foveate.advise.diagnosis.result import ItemDiagnosis
from foveate.advise.diagnosis.words import sentences, verdict

SHARES = dict.fromkeys(PARTS, 0.2)


def made(name: str, right: bool, **more: Any) -> ItemDiagnosis:
    share = more.pop("share", 0.2)
    last = {**SHARES, "evidence": share, "rest": 0.4 - share}
    known = {
        "located": "given", "evidence": "e", "passage": 0, "passages": 3, "place": 0.1,
        "tokens": 100, "evidence_tokens": 10, "last": last, "answer": last, "reading": share,
        "others": share, "entropy": 1.0, "reply": "r",
    }  # fmt: skip
    return ItemDiagnosis(id=name, right=right, **{**known, **more})


def told(items: list[ItemDiagnosis], located: Located | None = None, **more: Any) -> str:
    said = {
        "failing": sum(not one.right for one in items), "passing": sum(one.right for one in items),
        "contexts": True, "gain": 5.0, "verdict": verdict(items, True),
    } | more  # fmt: skip
    return " ".join(sentences(items, (), located or Located([]), said))


def failures(n: int, mended: int, other: int) -> list[ItemDiagnosis]:
    return [
        made(f"f{i}", False, raised=i < mended, control=i < other, hidden=False,
             share=0.01 if i < n // 2 else 0.05)
        for i in range(n)
    ]  # fmt: skip


def test_the_sentence_of_the_issue() -> None:
    text = told(failures(23, 11, 1))
    assert (
        "On 11 of 23 failures the evidence got under 2 % of what the last token looked at" in text
    )
    assert "mends 11 of 23 (raising another passage mends 1; p = 0.002)" in text
    assert "its tokens are 10 % of the prompt" in text


def test_more_attention_than_two_percent_is_held_against_its_length() -> None:
    items = [made(f"f{i}", False, share=0.05 if i < 4 else 0.3) for i in range(6)]
    text = told(items)
    assert "On 4 of 6 failures the evidence got less of what the last token looked at than" in text


@given(st.integers(1, 40), st.data())
def test_the_verdict_follows_an_exact_test(n: int, data: Any) -> None:
    mended, other = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    items = failures(n, mended, other)
    alone = abs(mended - other)  # the first ones of both are the same items
    sure = mended > other and 2 * 0.5**alone < 0.05
    found = verdict(items, True)
    assert (found == "attention") == sure
    if found == "elsewhere":
        assert mended / n < 0.25
    text = told(items)
    assert f"mends {mended} of {n} (raising another passage mends {other}" in text
    assert ("attention is part of the trouble" in text) == sure


def test_few_failures_cannot_be_told() -> None:
    assert verdict(failures(5, 5, 0), True) == "unknown"  # p = 0.06 at best
    assert verdict(failures(6, 6, 0), True) == "attention"
    assert verdict(failures(3, 0, 0), True) == "unknown"
    assert verdict(failures(14, 0, 0), True) == "elsewhere"
    assert verdict([], True) == "unknown"


def test_without_another_passage_nothing_is_claimed() -> None:
    items = [replace(one, control=None) for one in failures(20, 15, 0)]
    assert verdict(items, True) == "unknown"
    assert "there is no other passage to raise for comparison" in told(items)


def test_a_comparison_is_on_the_items_that_have_both() -> None:
    items = [
        replace(one, control=None if i < 5 else one.control)
        for i, one in enumerate(failures(20, 10, 6))
    ]
    text = told(items)
    assert "mends 10 of 20 (raising another passage mends 1 of the 15 where there is one" in text
    assert "against 5; p = 0.12" in text


def test_evidence_that_is_found_nowhere() -> None:
    items = [made(f"f{i}", False, located="nowhere", evidence="", evidence_tokens=0)
             for i in range(8)]  # fmt: skip
    assert verdict(items, True) == "unknown"  # it may stand there in other words
    text = told(items)
    assert "found nowhere in 8" in text and "no failing item has its answer in the context" in text
    assert "looked at" not in text


def test_how_the_evidence_was_located_is_said() -> None:
    items = [made("a", False), made("b", True, located="text"), made("c", False, located="heads")]
    text = told(items, Located([], 1, 9, 10, "these items"))
    assert "given in 1; found by the answer's own words in 1; found by where copying heads" in text
    assert "(Checked on 10 items (more than were looked at) whose evidence is known: " in text
    assert "such heads find it in 9.)" in text
    assert "not trusted" not in told(items) and "2 of 9" in told(
        items, Located([], 0, 2, 9, "not trusted")
    )


def test_what_hiding_did() -> None:
    passing = [made(f"p{i}", True, hidden=i < 6) for i in range(8)]
    text = told([*failures(7, 0, 0), *passing])
    assert "Hiding the evidence breaks 2 of 8 right answers: most of them do not hang on it" in text
    broken = [made(f"p{i}", True, hidden=False) for i in range(8)]
    assert "breaks 8 of 8 right answers." in told([*failures(7, 0, 0), *broken])
    odd = [replace(one, hidden=i < 2) for i, one in enumerate(failures(7, 0, 0))]
    assert "Hiding it mends 2 of 7 failures; nothing else was hidden to compare" in told(odd)


def test_only_what_holds_after_correction_is_told() -> None:
    """Ten figures compared, one of which is far apart."""
    failing = [made(f"f{i}", False, tokens=400 + i, share=0.2) for i in range(12)]
    passing = [made(f"p{i}", True, tokens=100 + i, share=0.2) for i in range(12)]
    looked = [_looked(one) for one in failing + passing]
    rows = figures((), failing + passing, looked, [None] * 24, 0)
    said = {"failing": 12, "passing": 12, "contexts": True, "gain": 5.0, "verdict": "unknown"}
    text = " ".join(sentences(failing + passing, rows, Located([]), said))
    assert "the length of the prompt (406 tokens on failures, 106 tokens where right" in text
    assert "how spread" not in text
    same = [made(f"p{i}", True, tokens=400 + i) for i in range(12)]
    rows = figures((), failing + same, looked, [None] * 24, 0)
    text = " ".join(sentences(failing + same, rows, Located([]), said))
    assert "tells failing from passing items apart for sure" in text


@pytest.mark.parametrize("hidden", [3, 0])
def test_sentences_that_read_like_instructions(hidden: int) -> None:
    from foveate.advise.diagnosis.compare import counts

    row = counts("suspicious", "n", "injection", [True] * 7 + [False] * 3, [True] + [False] * 9)
    items = [made(f"f{i}", False, disarmed=i < hidden) for i in range(7)]
    said = {"failing": 10, "passing": 10, "contexts": True, "gain": 5.0, "verdict": "unknown"}
    text = " ".join(sentences(items, (row,), Located([]), said))
    assert "context of 7 of 10 failing items and 1 of 10 passing ones (p = 0.02)" in text
    assert f"hiding it mends {hidden} of 7 that were asked" in text
    assert "that have a context" not in text
    fewer = replace(row, n_failing=9, failing=7 / 9)
    text = " ".join(sentences(items, (fewer,), Located([]), said))
    assert "7 of 9 failing items and 1 of 10 passing ones that have a context" in text


def test_what_is_of_all_items_is_said_where_some_were_looked_at() -> None:
    from foveate.advise.diagnosis.compare import means

    row = means("passages", "n", "the data", "passages", [9.0, 8, 9, 8, 9] * 4, [2.0, 3, 2, 3, 2])
    items = failures(6, 0, 0)
    said = {"failing": 20, "passing": 5, "contexts": True, "gain": 5.0, "verdict": "unknown"}
    text = " ".join(sentences(items, (row,), Located([]), said))
    assert "the number of passages (8.6 passages on failures" in text and ", of all items)" in text
    said |= {"failing": 6, "passing": 0}
    assert "of all items" not in " ".join(sentences(items, (row,), Located([]), said))


def _looked(one: ItemDiagnosis) -> Any:
    import torch

    from foveate.advise.diagnosis.look import Looked

    last = torch.tensor([one.last[part] for part in PARTS])[:, None, None].expand(5, 4, 2)
    return Looked(last, last, one.entropy, one.tokens, one.evidence_tokens, one.reply)
