"""What is tried: what fits these items and this model, in one order; and why the rest is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from families import build
from foveate import FoveateError
from foveate.advise.candidates import candidates, competing, given, left_out
from foveate.advise.ideas import accurate, cheap
from foveate.tasks import IOI, Distractors, Item, Questions, answer
from words import tokenizer as words

ALL = {idea.name for idea in accurate(30)}


@pytest.fixture(scope="module")
def chats(smollm2: tuple[Any, Any]) -> tuple[Any, Any]:
    """A tiny random model with the embedded tokenizer, of six layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2[1]), hidden_size=32, intermediate_size=32, num_hidden_layers=6,
        num_attention_heads=2, num_key_value_heads=1, pad_token_id=2, eos_token_id=2,
        initializer_range=0.3, max_position_embeddings=4096,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), smollm2[1]


@pytest.fixture(scope="module")
def notes() -> list[Item]:
    return Distractors(template="houses", passages=6, n=3).items()


def names(found):
    return [one.name for one in found]


def test_all_of_them_on_passages_and_nothing_first(chats, notes):
    found = candidates(*chats, notes)
    assert found[0].name == "nothing" and found[0].parts == 0 and found[0].kind == "nothing"
    assert len(found) == len(set(names(found))) == len(ALL) <= 24
    assert left_out(*chats, notes) == {}
    assert names(found) == names(candidates(*chats, notes))


def test_kinds_and_parts(chats, notes):
    found = {one.name: one for one in candidates(*chats, notes)}
    assert found["quote first"].kind == "prompt" and found["quote first"].parts == 1
    pair = found["closest passage last + closest passage × 5"]
    assert pair.kind == "method" and pair.parts == 2
    assert found["closest passage × 5"].parts == 1
    assert found["closest passage × 5, layers 3–5"].parts == 2  # all layers are the simpler
    assert "prompt" in [one.kind for one in list(found.values())[:3]]  # a short run has both kinds
    late = found["closest passage × 5, layers 3–5"].policy.methods[0]
    assert late.layers == [3, 4, 5] and late.gain == 5.0


def test_each_can_be_asked_and_written_down(chats, notes, tmp_path):
    for goal in ("accuracy", "memory"):
        for one in candidates(*chats, notes, goal):
            assert len(one.policy.generate(*chats, notes[:1], 1)) == 1
            again = fv.Policy.load(one.policy.save(tmp_path / "policy.toml"))
            assert (again.name, again.rewrites) == (one.name, one.policy.rewrites)
            assert repr(again.methods) == repr(one.policy.methods)


def test_the_evidence_and_the_answer_are_not_looked_at(chats, notes):
    bare = [Item(item.id, item.content, "?", {"context": item.marks["context"]}) for item in notes]
    assert names(candidates(*chats, bare)) == names(candidates(*chats, notes))


def test_without_context_what_needs_one_is_left_out(chats):
    items = Questions.of([{"prompt": "Is it so? Say yes or no.", "answer": "yes"}]).items()
    found = names(candidates(*chats, items))
    assert found == [
        "nothing", "question × 5", "instruction × 2", "instructions twice", "short answer",
        "first token × 0.5", "first token × 1.5", "ACT",
    ]  # fmt: skip
    told = left_out(*chats, items)
    assert {*told, *found} == {n.replace("15–29", "3–5") for n in ALL}
    assert "does not fit 1 of 1 items: there is no context" in told["closest passage × 5"]


def test_one_text_has_a_closest_sentence_and_no_closest_passage(chats):
    record = {"prompt": "Who is old?", "context": "Ann is old. Bob is young.", "answer": "Ann"}
    items = Questions.of([record]).items()
    found, told = names(candidates(*chats, items)), left_out(*chats, items)
    assert "closest sentence × 5" in found and "quote first" in found
    assert "one passage" in told["closest passage × 5"]
    assert "one passage" in told["passages by similarity"]


def test_half_of_the_items_must_fit_and_all_where_it_asks_by_itself(chats, notes):
    plain = Questions.of([{"prompt": "Why?", "answer": "x"}] * 2)
    mixed = [*notes, *plain.items()]
    found = names(candidates(*chats, mixed))
    assert "closest passage × 5" in found and "AutoPASTA × 5" not in found
    assert "2 of 5 items" in left_out(*chats, mixed)["AutoPASTA × 5"]
    most = [*notes[:1], *plain.items()]
    assert "closest passage × 5" not in names(candidates(*chats, most))


def test_what_is_given_competes_first(chats, notes, tmp_path):
    model, _ = chats
    pool = candidates(*chats, notes)
    mine = fv.Policy([fv.Emphasize("question", 3.0)], name="closest passage × 5")
    same = fv.Policy((), ["question twice"], name="asked twice")
    path = mine.for_model(model).save(tmp_path / "mine.toml")
    own = [given(path, model), given(same, model), given(fv.Policy(), model)]
    found = competing(pool, own)
    assert names(found)[:3] == ["nothing", "closest passage × 5 (2)", "asked twice"]
    assert "question twice" not in names(found) and len(found) == len(pool) + 1
    assert found[1].kind == "method" and found[2].kind == "prompt" and found[2].parts == 1
    assert competing(pool, []) == pool
    unnamed = competing(pool, [given(fv.Policy([fv.ZeroTuning(0.7)]), model)])[1]
    assert unnamed.name not in names(pool)  # "nothing" among them


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (7, "policies or their files"),
        ("nowhere.toml", "no such file"),
        (fv.Policy([fv.Emphasize("evidence", 3.0)], name="x"), "no rule finds"),
        (fv.Policy([fv.methods.Shift("q", torch.ones(2, 16))], name="x"), "holds tensors"),
        (fv.Policy([fv.ACT()], name="x", grid=(3, 2)), ""),
    ],
)
def test_what_is_given_must_be_for_this_model_and_told_as_text(chats, one, why):
    if not why:
        one = fv.Policy(one.methods, name="x").for_model(build("llama"))
        why = "layers"
    with pytest.raises(FoveateError, match=why):
        given(one, chats[0])


def test_raw_text_is_not_told_how_to_answer(chats):
    items = IOI(n=2).items(chats[1])
    found = names(candidates(*chats, items))
    assert "short answer" not in found and "ACT" in found


def test_a_model_that_does_not_fit_says_why():
    model, tokenizer = build("t5"), words()
    items = [Item("1", "w3 w4 w5\n\nw6 w7?", "w3", {"context": "w3 w4 w5"})]
    told = left_out(model, tokenizer, items)
    assert "chat template" in told["quote first"]
    assert "AutoPASTA × 5" in told


# ------------------------------------------------------------------------------ speed and memory


def test_patterns_are_sized_to_the_prompts():
    ideas = {idea.name: idea for idea in cheap("speed", 12, 2000)}
    assert [n for n in ideas if n.startswith("window 496")] == [
        "window 496 + 4 sinks, last 128 in full",
        "window 496 + 4 sinks",
        "window 496 + 4 sinks, prefill of layers 4–11",
    ]
    assert all(idea.refused is None for idea in ideas.values())
    assert {idea.kind for idea in ideas.values()} == {"nothing", "prompt", "pattern"}


def test_short_prompts_have_no_patterns_and_say_so(chats, notes):
    found = names(candidates(*chats, notes, "speed"))
    assert found[:3] == ["nothing", "closest passages only", "short answer"]
    sizes = [name.split()[1] for name in found[3:]]
    assert sizes and sizes == [n for n in ("256", "128", "64") if n in sizes]
    assert all("under 512" in why for why in left_out(*chats, notes, "speed").values())


def test_memory_tries_pieces_before_patterns():
    names = [idea.name for idea in cheap("memory", 12, 2000)]
    assert names.index("prefill 512 tokens at a time") < names.index("PowerAttention")


def test_patterns_answer_long_prompts(chats):
    notes = [f"Note {i} is about the house number {i} in a street." for i in range(60)]
    record = {"prompt": "What is note 7 about?", "context": notes, "answer": "house"}
    items = Questions.of([record]).items()
    found = candidates(*chats, items, "speed")
    assert sum(one.kind == "pattern" for one in found) > 8
    base = answer(*chats, items, max_new_tokens=2)
    for one in found:
        said = one.policy.generate(*chats, items, 2)
        assert len(said) == 1 and (said == base or one.name != "prefill 512 tokens at a time")


@pytest.mark.parametrize(
    ("items", "goal", "why"), [([], "speed", "no items"), (None, "joy", "goal='joy'")]
)
def test_what_is_refused(chats, notes, items, goal, why):
    with pytest.raises(FoveateError, match=why):
        candidates(*chats, notes if items is None else items, goal)
