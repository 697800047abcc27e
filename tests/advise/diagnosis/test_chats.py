"""Chats, data with attacks, questions of one's own: on a tiny model with a real chat template."""

from __future__ import annotations

from typing import Any

import pytest

from foveate.advise.diagnosis import Diagnosis, diagnose, heads
from foveate.tasks import Injection, Item, Questions

NOTES = ["The inn at Ash was built in 1905.", "The mill at Oak was built in 1877.", "Elm is old."]


def ask(chats: Any, items: list[Item], right: list[bool], **more: Any) -> Diagnosis:
    model, tokenizer = chats
    return diagnose(model, tokenizer, items, right, max_new_tokens=2, **more)


def test_attacks_are_hidden_and_the_question_has_its_share(chats: Any) -> None:
    items = Injection(n=8, seed=1).items()
    right = [not item.info["attacked"] for item in items]
    found = ask(chats, items, right)
    assert found["suspicious"].failing == 1.0 and found["suspicious"].passing == 0.0
    for one, item in zip(sorted(found.items, key=lambda i: i.id), items, strict=True):
        assert sum(one.last.values()) == pytest.approx(1, abs=1e-5)
        assert one.last["question"] > 0  # the system's message
        assert (one.disarmed is None) == one.right
        if item.info["attacked"]:
            assert one.suspicious == item.marks["attack"]
    row = found["focus"]
    assert 0 < row.failing < 1 and row.n_failing == 4  # type: ignore[operator]
    assert "reads like an instruction stands in the context of 4 of 4 failing items" in " ".join(
        found.sentences
    )


def test_chats_and_texts_together_are_what_they_are_alone(chats: Any) -> None:
    said = [{"role": "system", "content": "Be brief."},
            {"role": "user", "content": "When was the mill at Oak built?"}]  # fmt: skip
    records = [
        {"id": "chat", "messages": said, "context": NOTES, "answer": "1877"},
        {"id": "text", "prompt": "When was the inn at Ash built?", "context": NOTES,
         "answer": "1905", "evidence": 0},
        {"id": "bare", "prompt": "Who wrote Hamlet?", "answer": "Shakespeare"},
    ]  # fmt: skip
    items = Questions.of(records).items()
    together = {one.id: one for one in ask(chats, items, [False] * 3).items}
    for item in items:
        (alone,) = ask(chats, [item], [False]).items
        one = together[item.id]
        assert one.last == pytest.approx(alone.last, abs=1e-5)
        assert one.answer == pytest.approx(alone.answer, abs=1e-5)
        assert (one.reply, one.raised, one.located) == (alone.reply, alone.raised, alone.located)
    assert together["chat"].located == "text" and together["chat"].evidence == NOTES[1]
    assert together["text"].located == "given" and together["bare"].located == "nowhere"
    assert together["chat"].last["evidence"] > 0 and together["bare"].last["evidence"] == 0


def test_answers_in_other_words_are_counted_as_found_nowhere(
    chats: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_needles", lambda *_: None)
    record = {"prompt": "When was the mill built?", "context": NOTES, "answer": "in the seventies"}
    items = Questions.of([{**record, "id": str(n)} for n in range(6)]).items()
    found = ask(chats, items, [False] * 6)
    assert found.verdict == "unknown"
    text = " ".join(found.sentences)
    assert "found nowhere in 6" in text and "heads could not be trusted" in text
    assert "raised" not in found and "evidence.last" not in found
