"""Regions by rule: what each finds, where it says no, and what a prompt makes of it."""

from __future__ import annotations

import pytest

import foveate as fv
from foveate import FoveateError
from foveate.policy.rules import RULES
from foveate.tasks import Distractors, Item, Questions, prompts

NOTES = ["The gate is red. It is old.", "The door is blue. It is new."]
ASKS = "Which colour has the gate? Answer in one word."
SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASKS}]


def record(**fields):
    return Questions.of([{"answer": "red", **fields}]).items()[0]


def texts(item, name):
    """What a rule marks."""
    marks = RULES[name].item(item).marks[name]
    return [m if isinstance(m, str) else item.content[slice(*m)] for m in marks]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("closest passage", [NOTES[0]]),
        ("closest sentence", ["The gate is red."]),
        ("passages", NOTES),
        ("question", ["Which colour has the gate?"]),
        ("instruction", ["Answer in one word."]),
    ],
)
def test_each_rule(name, found, chat):
    asked = {"messages": SYSTEM} if chat else {"prompt": ASKS}
    item = record(**asked, context=NOTES, evidence=1)
    more = ["Be brief."] if chat and name == "instruction" else []
    assert texts(item, name) == found + more
    assert RULES[name].fits(item)


def test_the_evidence_is_never_read():
    told = Distractors(template="houses", n=6, passages=4).items()
    for item in told:
        bare = Item(item.id, item.content, "", {"context": item.marks["context"]})
        for name in ("closest passage", "closest sentence"):
            assert texts(item, name) == texts(bare, name)


@pytest.mark.parametrize("template", ["facts", "houses", "records", "events"])
def test_the_closest_passage_holds_the_answer(template):
    items = Distractors(template=template, n=12, passages=6, seed=3).items()
    assert all(texts(item, "closest passage") == [item.marks["evidence"]] for item in items)


@pytest.mark.parametrize(
    ("fields", "name", "why"),
    [
        ({"prompt": "Which?"}, "closest passage", "no context"),
        ({"prompt": "Which?"}, "passages", "no context"),
        ({"prompt": "Which?"}, "instruction", "nothing is said besides"),
        ({"prompt": ASKS, "context": "The gate is red. A door."}, "closest passage", "one passage"),
        ({"prompt": ASKS, "context": "The gate is red."}, "closest sentence", "one sentence"),
        ({"prompt": "Why?", "context": NOTES}, "closest passage", "no word of the question"),
        ({"prompt": "{context}", "context": NOTES}, "question", "nothing is asked"),
        ({"messages": [{"role": "user", "content": "Say: The gate is red. It is old. A gate?"}],
          "context": NOTES}, "closest passage", "more than once"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_why(fields, name, why):
    item, rule = record(**fields), RULES[name]
    assert not rule.fits(item) and why in rule.refusal(item)
    with pytest.raises(FoveateError, match=why):
        rule.item(item)
    with pytest.raises(FoveateError, match=f"Item '1' has no region {name!r}"):
        rule.spans(item)


def test_one_text_of_a_csv_file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('prompt,context,answer\nWho is old?,"Ann is old. Bob is young.",Ann\n')
    item = Questions.load(path).items()[0]
    assert texts(item, "closest sentence") == ["Ann is old."]
    assert texts(item, "passages") == ["Ann is old.", "Bob is young."]


@pytest.mark.parametrize("chat", [False, True])
def test_marks_become_regions_of_a_prompt(chat):
    _, tokenizer = fv.load("smollm2")
    asked = {"messages": SYSTEM} if chat else {"prompt": ASKS}
    item = RULES["closest sentence"].item(record(**asked, context=NOTES))
    ((_, prompt),) = prompts([item], tokenizer)
    tokens = [prompt.tokens[i] for i in prompt.positions("closest sentence")]
    assert "".join(tokens).strip() == "The gate is red."
