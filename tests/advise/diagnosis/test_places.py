"""The evidence of an item: given, found by the answer's words, or not found."""

from __future__ import annotations

from typing import Any

import pytest

from foveate.advise.diagnosis.places import Places
from foveate.tasks import Distractors, Injection, Item, Questions, Unanswerable

NOTES = [
    "The inn at Ash was built in 1905 by a miller.",
    "The mill at Oak was built in 1877. It burnt down in 1923.",
    "The school at Elm has 190 pupils.",
]


def asked(answer: str, question: str = "When was the mill at Oak built?", **more: Any) -> Places:
    record = {"prompt": question, "context": NOTES, "answer": answer, **more}
    (item,) = Questions.of([record]).items()
    return Places.of(item, right=False)


def test_evidence_that_is_given() -> None:
    found = asked("1877", evidence=1)
    assert found.located == "given" and found.says(found.evidence) == NOTES[1]
    assert found.unit == 1 and found.place == pytest.approx(0.53, abs=0.05)


def test_the_answers_words_find_it() -> None:
    found = asked("1877")
    assert found.located == "text" and found.says(found.evidence) == NOTES[1]


def test_words_are_whole_and_case_does_not_matter() -> None:
    assert asked("190", "How many pupils has the school?").unit == 2  # not 1905
    assert asked("ELM").unit == 2
    assert asked("built in\n1877").unit == 1
    assert asked("19").located == "nowhere"


@pytest.mark.parametrize(
    ("answer", "text", "there"),
    [
        ("12", "It weighs 12.5 kg.", False),
        ("12", "It has 1,812 rooms.", False),
        ("12", "It opens at 12:30.", False),
        ("30", "It opens at 12:30.", False),
        ("12:30", "It opens at 12:30.", True),
        ("12", "It has 12 rooms, or 12.", True),
        ("12", "No.12, the mill", True),
    ],
)
def test_a_number_is_no_part_of_another(answer: str, text: str, there: bool) -> None:
    item = Item("x", f"{text}\n\nThe other is older and larger.\n\nWhat?", answer)
    assert (Places.of(item, right=False).located == "text") == there


def test_evidence_of_a_chat_is_not_looked_for_in_the_question() -> None:
    said = [{"role": "user", "content": "When was the mill at Oak built?"}]
    record = {"messages": said, "context": NOTES, "answer": "1877", "evidence": "mill"}
    (item,) = Questions.of([record]).items()
    found = Places.of(item, right=False)
    (hull,) = found.context
    assert found.evidence and all(hull[0] <= a and b <= hull[1] for a, b in found.evidence)


def test_of_several_places_the_likest_to_the_question() -> None:
    found = asked("built")
    assert found.located == "text, several places"
    assert found.says(found.evidence) == NOTES[1]


@pytest.mark.parametrize("answer", ["a", "no", "The", "B"])
def test_words_that_stand_in_any_text_find_nothing(answer: str) -> None:
    assert asked(answer).located == "nowhere"


def test_of_a_long_passage_the_sentence_is_the_evidence() -> None:
    long = " ".join(f"Nothing happened in the year {n}." for n in range(1000, 1040))
    item = Item("x", f"{long} The bell was cast in 1717.\n\nOther.\n\nWhen was the bell cast?",
                "1717")  # fmt: skip
    found = Places.of(item, right=False)
    assert found.says(found.evidence) == "The bell was cast in 1717."


def test_the_control_is_another_passage_that_does_not_answer() -> None:
    for seed in range(20):
        for item in Distractors(template="records", passages=4, n=6, seed=seed).items():
            found = Places.of(item, right=False, seed=seed)
            (control,) = found.control
            assert control in found.units and control not in found.evidence
            assert item.answer not in found.text[slice(*control)]
            assert found == Places.of(item, right=False, seed=seed)


def test_without_another_passage_there_is_no_control() -> None:
    for item in Unanswerable(n=2, kind="answerable").items():
        found = Places.of(item, right=False)
        assert found.evidence and not found.control  # the evidence is all of the context


def test_a_chat_with_its_context() -> None:
    said = [{"role": "system", "content": "Be brief."},
            {"role": "user", "content": "When was the mill at Oak built?"}]  # fmt: skip
    (item,) = Questions.of([{"messages": said, "context": NOTES, "answer": "1877"}]).items()
    found = Places.of(item, right=True)
    assert found.says(found.evidence) == NOTES[1] and len(found.units) == 3


def test_an_unmarked_text_is_cut_into_sentences() -> None:
    item = Item("x", " ".join(NOTES) + " When was the mill at Oak built?", "1877")
    found = Places.of(item, right=False)
    assert found.located == "text"
    assert found.says(found.evidence) == "The mill at Oak was built in 1877."
    assert found.says(found.asked).strip() == "When was the mill at Oak built?"


def test_no_context_no_evidence() -> None:
    found = Places.of(Item("x", "Who wrote Hamlet?", "Shakespeare"), right=False)
    assert (found.units, found.evidence, found.control, found.located) == ((), (), (), "nowhere")


@pytest.mark.parametrize("templates", ["train", "held-out"])
def test_what_reads_like_an_instruction_is_found_by_its_wording(templates: str) -> None:
    hit, false, n = 0, 0, 120
    for item in Injection(n=n, templates=templates, seed=5).items():
        attacked = item.info["attacked"]
        marks = {k: v for k, v in item.marks.items() if k != "attack"}
        found = Places.of(Item(item.id, item.content, item.answer, marks), right=True)
        hit += attacked and bool(found.suspicious)
        false += not attacked and bool(found.suspicious)
    # wording alone: it must find most, and leave harmless orders ("do not feed the ducks") alone
    assert hit >= 0.9 * n / 2
    assert false <= 0.02 * n / 2
