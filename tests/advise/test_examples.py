"""Which items are shown, and that what is drawn is what a written-out attention looks at."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from families import build
from foveate.advise import Baseline, Figure
from foveate.advise.ask import Answered
from foveate.advise.examples import MOST, examples, picked
from foveate.tasks import Item, prompts
from foveate.tasks.answering import generate
from words import text, tokenizer

TURNED = fv.Policy([fv.Emphasize("closest passage", 8.0)], name="turned")
NEW = 6


def question(name: str, *extra: int) -> Item:
    """Two notes; the second one shares its words with what is asked."""
    notes = [text(3, 4, 5, *extra), text(9, 8, 7)]
    said = "\n\n".join([*notes, text(9, 8, 20)])
    ends = [len(notes[0]), len(notes[0]) + 2 + len(notes[1])]
    marks: dict[str, Any] = {
        "passage 0": (0, ends[0]), "passage 1": (ends[0] + 2, ends[1]),
        "context": (0, ends[1]), "question": (ends[1] + 2, len(said)),
    }  # fmt: skip
    return Item(name, said, text(7), marks)


ITEMS = [question("a"), question("b", 11, 12, 13), question("c", 14)]


def baseline(right: tuple[bool, ...] = (False, True, False)) -> Baseline:
    return Baseline(right, ("a", "b", "c"), ("x", "y", "z"), Figure(0, 0, 1, 3), 1.0, None)


def answered(right: tuple[bool, ...]) -> list[Answered]:
    return [Answered(i.id, f"{i.id} now", r, 1.0) for i, r in zip(ITEMS, right, strict=True)]


def outcomes(**kinds: int) -> tuple[dict[str, bool], dict[str, bool]]:
    """So many items mended, broken, wrong, fine."""
    of = {"mended": (False, True), "broken": (True, False), "wrong": (False, False),
          "fine": (True, True)}  # fmt: skip
    both = {f"{kind} {i}": of[kind] for kind, n in kinds.items() for i in range(n)}
    return {n: a for n, (a, _) in both.items()}, {n: b for n, (_, b) in both.items()}


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        ({"fine": 2, "wrong": 9, "broken": 2, "mended": 9},
         ["mended 0", "mended 1", "mended 2", "broken 0", "wrong 0"]),
        ({"mended": 9}, [f"mended {i}" for i in range(MOST)]),
        ({"wrong": 2, "mended": 9}, ["mended 0", "mended 1", "mended 2", "mended 3", "wrong 0"]),
        ({"wrong": 9, "mended": 1}, ["mended 0", "wrong 0", "wrong 1", "wrong 2", "wrong 3"]),
        ({"broken": 3}, ["broken 0", "broken 1", "broken 2"]),
        ({"fine": 3}, []),
    ],
)  # fmt: skip
def test_picked(kinds: dict[str, int], wanted: list[str]) -> None:
    assert picked(*outcomes(**kinds)) == wanted


def test_items_that_were_not_answered_are_not_shown() -> None:
    before, after = outcomes(mended=3)
    del after["mended 1"]
    assert picked(before, after) == ["mended 0", "mended 2"]


def rows(item: Item, methods: list[Any], reply: torch.Tensor) -> torch.Tensor:
    """What the last token looks at, from the written-out maps: mean over layers and heads."""
    _, prompt = next(iter(prompts([item], tokenizer(), 1)))
    model = build("llama", "eager")
    ids = torch.cat([prompt.inputs["input_ids"], reply[None]], 1)
    if not methods:
        maps = model(input_ids=ids, output_attentions=True).attentions
        return torch.stack(maps)[:, 0, :, -1].mean((0, 1))
    region = TURNED.items([item])
    _, prompt = next(iter(prompts(region, tokenizer(), 1)))
    with fv.attach(model, *methods, fv.Measure(fv.rows([-1])), prompt=prompt) as run:
        model(**prompt.inputs)
    return run.results["rows"].prefill[:, 0, :, -1].mean((0, 1))


@torch.no_grad()
def test_what_is_drawn_is_what_the_model_looks_at() -> None:
    model = build("llama")
    after = answered((True, False, False))
    made = examples(model, tokenizer(), ITEMS, baseline(), TURNED, after, max_new_tokens=NEW)
    found = {one.id: one for one in made}
    assert list(found) == ["a", "b", "c"]
    for item in ITEMS:
        one = found[item.id]
        _, prompt = next(iter(prompts([item], tokenizer(), 1)))
        plain = generate(model, prompt, NEW)[0]
        with fv.attach(model, *TURNED.methods, prompt=TURNED.prompt(tokenizer(), item)) as _:
            turned = generate(model, prompt, NEW)[0]
        part = next((i for i, (p, t) in enumerate(zip(plain, turned, strict=True)) if p != t), 0)
        assert one.said == part
        assert one.tokens[: prompt.length] == prompt.tokens
        assert len(one.before_weights) == len(one.tokens) == prompt.length + part
        wanted = rows(item, [], plain[:part])
        assert torch.tensor(one.before_weights) == pytest.approx(wanted, abs=1e-3)
        assert sum(one.after_weights) == pytest.approx(1.0, abs=1e-2)
        assert (one.before, one.after) == (dict(a="x", b="y", c="z")[item.id], f"{item.id} now")
        if part == 0:
            wanted = rows(item, list(TURNED.methods), plain[:0])
            assert torch.tensor(one.after_weights) == pytest.approx(wanted, abs=1e-3)


def test_evidence_and_what_is_raised() -> None:
    (one,) = examples(build("llama"), tokenizer(), ITEMS[:1], baseline(), TURNED,
                      answered((True, False, False))[:1], max_new_tokens=2)  # fmt: skip
    assert [one.tokens[i] for i in one.raised] == [one.tokens[i] for i in (3, 4, 5)]
    assert one.evidence == [3, 4, 5]  # nobody gave it: the passage with the answer's words
    assert one.context is not None and one.question == text(9, 8, 20) and one.answer == text(7)
    assert sum(one.after_weights[i] for i in one.raised) > 2 * sum(
        one.before_weights[i] for i in one.raised
    )


def test_an_empty_policy_shows_what_is_wrong() -> None:
    found = examples(build("llama"), tokenizer(), ITEMS, baseline(), fv.Policy(), max_new_tokens=2)
    assert [one.id for one in found] == ["a", "c"]
    assert all(one.before == one.after and one.before_weights == one.after_weights and
               one.before_weights for one in found)  # fmt: skip


def test_a_rewritten_prompt_has_its_own_tokens() -> None:
    twice = fv.Policy(rewrites=["question twice"], name="twice")
    one, *_ = examples(build("llama"), tokenizer(), ITEMS, baseline(), twice,
                       answered((True, True, True)), max_new_tokens=2)  # fmt: skip
    assert len(one.after_tokens) > len(one.tokens)
    assert len(one.after_weights) == len(one.after_tokens)
    assert [one.after_tokens[i] for i in one.after_evidence] == [
        one.tokens[i] for i in one.evidence
    ]


def test_words_alone_where_attention_is_not_to_be_had() -> None:
    given = (build("llama"), tokenizer(), ITEMS, baseline())
    after = answered((True, True, True))
    late = examples(*given, TURNED, after, seconds=0.0)
    asks = examples(*given, fv.Policy([fv.AutoPASTA(heads={0: [0]})], name="asks"), after)
    for found in (late, asks):
        assert [one.after for one in found] == ["a now", "c now"]
        assert not any(one.before_weights or one.after_weights for one in found)
