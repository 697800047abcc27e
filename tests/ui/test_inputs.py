"""What is typed is checked and bounded before anything waits for the model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.errors import FoveateError
from foveate.ui import inputs
from foveate.ui.inputs import CHAT, PLAIN, chat, marks, number, read

ROLES = st.sampled_from(["system", "user", "assistant"])
WORDS = st.text(st.sampled_from("abc xyz,.?"), min_size=1, max_size=20).filter(str.strip)


@given(st.lists(st.tuples(ROLES, WORDS), min_size=1, max_size=5))
def test_a_chat_that_was_written_out_reads_as_it_was(messages: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{role}: {words}" for role, words in messages)
    assert chat(text) == [{"role": r, "content": w.strip()} for r, w in messages]


def test_text_without_roles_is_what_a_user_says() -> None:
    assert chat("Hello.\nIs it user: or not?") == [
        {"role": "user", "content": "Hello.\nIs it user: or not?"}
    ]
    assert chat("Before.\nUSER: after")[0] == {"role": "user", "content": "Before."}


def test_forms(tiny: tuple[Any, Any]) -> None:
    tokenizer = tiny[1]
    said = read(tokenizer, "user: Hi.", CHAT)
    assert "<|im_start|>user\nHi." in said.text
    assert read(tokenizer, "user: Hi.", PLAIN).text == "user: Hi."


def test_marks() -> None:
    assert marks("a = one\n\n b=two = three \nc = x\\ny") == [
        ("a", "one"),
        ("b", "two = three"),
        ("c", "x\ny"),
    ]
    assert marks("") == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("evidence", "NAME = text"),
        ("= words", "NAME = text"),
        ("name =", "NAME = text"),
        ("a = 1\na = 2", "two pieces"),
        ("\n".join(f"m{i} = x" for i in range(20)), "20 pieces were marked"),
        ("a = b\n" * 10_000, "60,000 characters"),
    ],
)
def test_marks_that_are_none(text: str, sentence: str) -> None:
    with pytest.raises(FoveateError, match=sentence):
        marks(text)


@pytest.mark.parametrize(
    ("text", "form", "sentence"),
    [
        ("", CHAT, "empty"),
        (" \n\t", CHAT, "empty"),
        (None, CHAT, "empty"),
        ("x" * (inputs.MOST_CHARACTERS + 1), PLAIN, "20,001 characters; .* 20,000"),
        ("word " * 1500, PLAIN, "tokens"),
        ("Hi.", "sql", "chat"),
        ("system:", CHAT, "Every message"),
    ],
)
def test_prompts_that_are_refused(
    tiny: tuple[Any, Any], text: Any, form: str, sentence: str
) -> None:
    with pytest.raises(FoveateError, match=sentence):
        read(tiny[1], text, form)


SEATON = "The mill at Harlow is old.\nuser: The mill at Seaton was built in 1832."


@pytest.mark.parametrize("form", [CHAT, PLAIN])
@pytest.mark.parametrize(
    ("text", "piece", "proposal"),
    [
        ("The cat sat.", "dog", None),
        ("The cat sat.", "are a helpful assistent", None),  # like the chat template's own words
        ("The cat sat.", "x" * 5000, None),
        (SEATON, "the mil at Seton", "The mill at Seaton"),
    ],
)
def test_a_piece_that_is_not_there_is_named(
    tiny: tuple[Any, Any], form: str, text: str, piece: str, proposal: str | None
) -> None:
    with pytest.raises(FoveateError) as caught:
        read(tiny[1], text, form, [("x", piece)])
    said = str(caught.value)
    assert "does not stand in the prompt" in said and "im_start" not in said
    assert len(said) < 200
    assert ("the nearest there is" in said) == (proposal is not None)
    assert proposal is None or repr(proposal) in said


@pytest.mark.parametrize("value", [None, "3", True, 0, 11, 2.5, float("nan"), float("inf")])
def test_numbers_out_of_bounds(value: Any) -> None:
    with pytest.raises(FoveateError, match="from 1 to 10"):
        number("n", value, 1, 10, whole=True)
