"""What is what in an item: read from marks, from lists of passages, and from the text alone."""

from __future__ import annotations

import pytest

from foveate import FoveateError
from foveate.policy.parts import Parts, likeness
from foveate.tasks import Distractors, Item, Questions


def record(**fields):
    return Questions.of([{"answer": "x", **fields}]).items()[0]


def says(item):
    """The parts of an item as texts."""
    parts = Parts.of(item)
    return {
        "context": parts.context and parts.says(parts.context),
        "passages": [parts.says(span) for span in parts.passages],
        "cut": parts.cut,
        "question": parts.question and parts.says(parts.question),
        "instruction": [parts.says(span) for span in parts.instruction],
        "separate": parts.separate,
    }


NOTES = [
    "The gate is red. It is as old as the house.",
    "The door is blue. It came with the new house, they say.",
]
ASKS = "Which colour has the gate? Answer in one word."
READ = {
    "context": "\n\n".join(NOTES),
    "passages": NOTES,
    "cut": "given",
    "question": "Which colour has the gate?",
    "instruction": ["Answer in one word."],
    "separate": True,
}


def test_a_list_of_passages():
    assert says(record(prompt=ASKS, context=NOTES)) == READ


def test_passages_of_a_chat_are_the_paragraphs_of_what_was_given():
    chat = [
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": ASKS},
    ]
    item = record(messages=chat, context=NOTES)
    assert Parts.of(item).message == 2
    assert says(item) == READ | {"cut": "paragraphs"}


def test_paragraphs_of_a_prompt_without_marks():
    assert says(Item("1", "\n\n".join([*NOTES, ASKS]), "x")) == READ | {"cut": "paragraphs"}
    first = "\n\n".join(["Which colour has the gate?", *NOTES])
    assert says(Item("1", first, "x")) == READ | {"cut": "paragraphs", "instruction": []}
    assert says(record(prompt=first))["context"] == READ["context"]  # all is marked as question


@pytest.mark.parametrize(
    "text",
    [
        "Which colour has the gate?",
        "You are brief.\n\nWhich colour has the gate of the old house by the river?",
        "One paragraph of a text.\n\nAnother paragraph of it, that asks nothing, and no more.",
    ],
)
def test_no_context_is_made_up(text):
    found = says(Item("1", text, "x"))
    assert found["context"] is None and found["passages"] == [] and found["cut"] is None


@pytest.mark.parametrize(
    ("context", "cut", "count"),
    [
        ("One is a.\nTwo is b.\nThree is c.", "lines", 3),
        ("One is a.\nStill one.\n\nTwo is b.", "paragraphs", 2),
        ("One is a. Two is b. Three is c.", "sentences", 3),
        ("A text that was wrapped at\na width goes on, and\nagain. Two is b.", "sentences", 4),
    ],
)  # fmt: skip
def test_a_context_given_as_one_text_is_cut(context, cut, count):
    found = says(record(prompt="What is two?", context=context))
    assert (found["cut"], len(found["passages"])) == (cut, count)
    assert found["separate"] == (cut != "sentences")


def test_the_tasks_own_lists_of_passages():
    for template in ("facts", "houses", "records"):
        item = Distractors(template=template, n=1, passages=5).items()[0]
        assert says(item)["passages"] == item.info["passages"]
        assert says(item)["instruction"][0].startswith("Answer with")


def test_a_listed_passage_that_is_not_there_is_not_taken():
    item = record(prompt="What is two?", context="One.\n\nTwo.", passages=["One.", "Three."])
    assert says(item)["cut"] == "paragraphs"


def test_text_around_the_context():
    prompt = "Use these notes only.\n\n{context}\n\nQuestion: Which colour has the gate?\nAnswer:"
    found = says(record(prompt=prompt, context=NOTES))
    assert found["question"] == "Question: Which colour has the gate?"
    assert found["instruction"] == ["Use these notes only."]  # and not “Answer:”


def test_without_a_question_mark_all_that_is_said_last_asks():
    found = says(record(prompt="Name the colour of the gate.", context=NOTES))
    assert found["question"] == "Name the colour of the gate." and found["instruction"] == []


def test_nothing_but_a_context():
    assert says(Item("1", "One. Two.", "x", {"context": "One. Two."}))["question"] is None


def test_a_chat_in_which_the_user_says_nothing():
    with pytest.raises(FoveateError, match="user says nothing"):
        Parts.of(Item("7", [{"role": "system", "content": "Hi."}], "x"))


# ------------------------------------------------------------------------------ likeness


def test_rare_words_count_more():
    pieces = ["the inn at Crane", "the inn at Wren", "the mill at Wren", "the inn the inn the inn"]
    scores = likeness("Who owns the inn at Crane?", pieces)
    assert max(scores) == scores[0]
    assert likeness("the mill", pieces)[2] == max(likeness("the mill", pieces))


def test_likeness_against_the_formula_by_hand():
    # two pieces of two words: idf = log(1 + (2 - 1 + .5) / (1 + .5)) = log 2; tf part = 1
    assert likeness("gate", ["red gate", "blue door"]) == pytest.approx([0.6931472, 0.0])


def test_likeness_in_scripts_without_blanks_and_of_nothing():
    assert (
        likeness("赤い門", ["門は赤い", "犬"])[0] > 0 == likeness("赤い門", ["門は赤い", "犬"])[1]
    )
    assert likeness("", ["a"]) == [0.0] and likeness("a", []) == [] and likeness("a", [""]) == [0.0]


def test_ties_go_to_the_first():
    item = record(prompt="Where is Ann?", context=["Ann is here.", "Bob is here.", "Ann is here."])
    parts = Parts.of(item)
    assert parts.closest(parts.passages) == 0
    assert parts.closest([]) is None
    nothing = Parts.of(record(prompt="Why?", context=["Ann is here.", "Bob is here."]))
    assert nothing.closest(nothing.passages) is None


def test_a_long_input_is_read():
    notes = [f"Note {i} is about the house number {i} in the street." for i in range(2000)]
    parts = Parts.of(record(prompt="What is note 1234 about?", context=notes))
    assert parts.closest(parts.passages) == 1234
