"""Prompts rewritten: what becomes of the text, of the reply, and of the marks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate import FoveateError
from foveate.policy.parts import marked
from foveate.policy.rewrites import QUOTE, REWRITES, SHORT
from foveate.policy.rules import RULES
from foveate.tasks import Distractors, Item, Questions

NOTES = ["Ann has the key.", "The gate is red.", "Bob has the gate's key."]
ASKS = "Who has the key of the gate? Answer in one word."


ON_CONTEXTS = [name for name in REWRITES if REWRITES[name].needs in ("passages", "context")]


def record(**fields):
    return Questions.of([{"answer": "Bob", **fields}]).items()[0]


def text(item):
    return item.content if isinstance(item.content, str) else item.content[-1]["content"]


def lines(name, item):
    return text(REWRITES[name].item(item)).split("\n\n")


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("quote first", [*NOTES, ASKS, QUOTE]),
        ("question twice", ["Who has the key of the gate?", *NOTES, ASKS]),
        ("closest passage last", [*NOTES, ASKS]),
        ("closest passage first", [NOTES[2], NOTES[0], NOTES[1], ASKS]),
        ("passages by similarity", [NOTES[1], NOTES[0], NOTES[2], ASKS]),
        ("closest passages only", [NOTES[2], ASKS]),
        ("short answer", [*NOTES, ASKS, SHORT]),
        ("instructions twice", ["Answer in one word.", *NOTES, ASKS]),
    ],
)
def test_each_rewrite(name, wanted, chat):
    asked = {"messages": [{"role": "user", "content": ASKS}]} if chat else {"prompt": ASKS}
    assert lines(name, record(**asked, context=NOTES)) == wanted


def test_what_stands_before_the_context_is_said_again_behind_it():
    before = record(prompt="Be brief. Who has the key?\n\n{context}", context=NOTES)
    assert lines("question twice", before) == [
        "Be brief. Who has the key?",
        *NOTES,
        "Who has the key?",
    ]
    assert lines("instructions twice", before)[-1] == "Be brief."


def test_a_system_message_is_said_again():
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    assert lines("instructions twice", record(messages=chat)) == ["Who?", "Be brief."]


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        *[(name, {"prompt": "Who is it?"}, "no context") for name in ON_CONTEXTS],
        ("instructions twice", {"prompt": "Who is it?"}, "nothing is said besides"),
        ("closest passage last", {"prompt": ASKS, "context": "Ann. Bob has it."}, "one passage"),
        ("closest passage first", {"prompt": "Why?", "context": NOTES}, "no word"),
        ("question twice", {"prompt": "Who? {context} Who?", "context": NOTES}, "twice already"),
        ("instructions twice", {"prompt": "Be brief. {context} Who is it? Be brief.",
                                "context": NOTES}, "twice already"),
        ("quote first", {"prompt": "{context}", "context": NOTES}, "nothing is asked"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_why(name, fields, why):
    item, rewrite = record(**fields), REWRITES[name]
    assert not rewrite.fits(item) and why in rewrite.refusal(item)
    with pytest.raises(FoveateError, match=f"{name!r} does not fit item '1': .*{why}"):
        rewrite.item(item)


def test_text_to_be_continued_is_not_asked_for_quotes():
    item = Item("1", "Ann is old.\n\nWho is?", "Ann", {"context": "Ann is old."}, raw=True)
    assert "continued" in REWRITES["quote first"].refusal(item)
    assert "continued" in REWRITES["short answer"].refusal(item)
    assert REWRITES["question twice"].fits(item)


@pytest.mark.parametrize(
    ("reply", "counts"),
    [
        ("“Bob has the key.” Answer: Bob", "Bob"),
        ("Quote: Ann.\n\n**Answer:** Bob\n", "Bob"),
        ('"Ann"\n“Answer:” Bob', "Bob"),
        ("Answer: Ann? No.\nANSWER: Bob", "Bob"),
        ("Bob", "Bob"),
        ("Bob.\nAnswer:", "Bob.\nAnswer:"),  # nothing behind it: all of it counts
        ("The answers: Bob", "The answers: Bob"),
        ("", ""),
    ],
)
def test_the_answer_is_read_out_of_a_quoting_reply(reply, counts):
    assert REWRITES["quote first"].reply(reply) == counts
    assert REWRITES["question twice"].reply(reply) == reply


def test_the_quote_is_given_room_and_nothing_else_is():
    assert {n: r.extra_tokens for n, r in REWRITES.items() if r.extra_tokens} == {"quote first": 48}


# ------------------------------------------------------------------------------ marks that follow

WORDS = st.lists(
    st.sampled_from("Ann Bob gate key red old mill 1902 inn the of".split()), min_size=1, max_size=5
)
SENTENCES = st.builds(lambda words, end: " ".join(words) + end, WORDS, st.sampled_from(".!"))
PASSAGES = st.lists(
    st.lists(SENTENCES, min_size=1, max_size=3).map(" ".join), min_size=2, max_size=5
)


@st.composite
def items(draw):
    # a question and every passage have a word of their own
    passages = [f"N{k} {said}" for k, said in enumerate(draw(PASSAGES))]
    asks = f"Who {' '.join(draw(WORDS))}? "
    prompt = asks + draw(st.sampled_from(["Be brief.", "Say one word only. No more.", ""]))
    around = draw(
        st.sampled_from(["{0}", "Read this.\n\n{{context}}\n\n{0}", "{0}\n\n{{context}}"])
    )
    passage = draw(st.integers(0, len(passages) - 1))
    kind = draw(st.sampled_from(["prompt", "messages", "words"]))
    if kind == "words":
        whole = " ".join(passages)
        marks = {"evidence": passages[passage], "context": whole, "question": asks}
        return Item("1", f"{whole}\n\n{prompt}", "x", marks, info={"passages": passages})
    said = around.format(prompt.strip())
    if kind == "messages":
        said = [{"role": "system", "content": "Eve."}, {"role": "user", "content": said}]
    return record(**{kind: said}, context=passages, evidence=[passage])


def pieces(item):
    """Each mark's words, in any order for a region of several passages."""
    found = {}
    for name in item.marks:
        here = [text(item)[slice(*span)] for span in marked(item, text(item), name)]
        found[name] = sorted(set(" ".join(here).split())) if name == "context" else set(here)
    return found


KEEP = [name for name in REWRITES if name != "closest passages only"]


@settings(max_examples=60)
@given(items(), st.lists(st.sampled_from(KEEP), max_size=5))
def test_marks_point_at_the_same_words_after_any_chain(item, chain):
    old = pieces(item)
    for name in chain:
        if REWRITES[name].fits(item):
            item = REWRITES[name].item(item)
    new = pieces(item)
    assert {name: new[name] for name in old} == old


@settings(max_examples=60)
@given(items(), st.lists(st.sampled_from(KEEP), max_size=4))
def test_rules_find_the_same_before_and_after_any_chain(item, chain):
    """No rewrite changes what the parts of an item are."""

    def rule(name, item):
        if not RULES[name].fits(item):
            return None
        marks = RULES[name].item(item).marks[name]
        return {m if isinstance(m, str) else item.content[slice(*m)] for m in marks}

    old = {name: rule(name, item) for name in ("passages", "question", "instruction")}
    for name in chain:
        if REWRITES[name].fits(item):
            item = REWRITES[name].item(item)
    assert {name: rule(name, item) for name in old} == old


@settings(max_examples=40)
@given(items())
def test_words_are_only_moved_or_said_again(item):
    for name, rewrite in REWRITES.items():
        if rewrite.fits(item):
            old, new = text(item).split(), text(rewrite.item(item)).split()
            if name not in KEEP:
                assert len(new) < len(old) and set(new) <= set(old)
            elif rewrite.needs == "passages":
                assert sorted(old) == sorted(new), name
            else:
                assert len(new) > len(old) and set(old) <= set(new), name


@settings(max_examples=40)
@given(items())
def test_what_is_kept_is_marked_and_what_is_left_out_is_not(item):
    rewrite, old = REWRITES["closest passages only"], pieces(item)
    if rewrite.fits(item):
        item = rewrite.item(item)
        new = pieces(item)
        assert new["question"] == old.get("question", new["question"])
        assert all(new[name] and set(new[name]) <= set(old[name]) for name in new if name in old)


def test_a_third_of_the_passages_is_kept_in_its_order():
    notes = [f"Note {name}: {fill}" for name, fill in zip("abcdefg", ["x", "key", "y"] * 3)]
    kept = lines("closest passages only", record(prompt="Where is the key?", context=notes))
    assert kept == [notes[0], notes[1], notes[4], "Where is the key?"]


def test_other_messages_and_fields_stay():
    chat = [
        {"role": "system", "content": "The gate is red."},
        {"role": "user", "content": ASKS},
    ]
    item = record(messages=chat, context=NOTES, evidence="The gate is red.")
    new = REWRITES["closest passage first"].item(item)
    assert new.content[0] == chat[0] and new.answer == item.answer and new.info == item.info
    assert "The gate is red." in new.marks["evidence"]


def test_items_of_the_tasks_keep_their_evidence():
    for item in Distractors(template="records", n=3, passages=5).items():
        new = REWRITES["passages by similarity"].item(item)
        assert [new.content[slice(*s)] for s in new.marks["evidence"]] == [item.marks["evidence"]]
        assert [new.content[slice(*s)] for s in new.marks["decoy"]] == [item.marks["decoy"]]
