"""Shares of attention against the model's own eager maps, family by family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import words
from tests.advise.diagnosis import counting
from tests.families import DECODERS, build

from foveate.advise.diagnosis.look import PARTS, Looked, _offset, forced, look, prompted
from foveate.advise.diagnosis.places import Places
from foveate.errors import FoveateError
from foveate.tasks import Item

ITEMS = [
    counting.item("long", (3, 9, 8), (10, 11), (4, 12, 13, 14), evidence=1, answer=11),
    counting.item("short", (5, 6), (7,), evidence=0, answer=6),
    Item("bare", words.text(30, 31, 32), words.text(33), raw=True),
]
CASES = [Places.of(item, right=False) for item in ITEMS]


def of(model: Any, cases: list[Places], batch_size: int, tokens: int = 3) -> list[Looked]:
    return [
        one
        for asked in prompted(model, words.tokenizer(), cases, batch_size)
        for one in look(model, words.tokenizer(), asked, tokens)
    ]


def by_hand(name: str, item: Item, tokens: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Shares ``[5]`` of the last token and of the reply, and the reply: one item, no padding."""
    model = build(name, "eager")
    ids = torch.tensor([words.tokenizer()(item.content)["input_ids"]])
    size = ids.shape[1]
    part = torch.full((size,), 4)
    text = str(item.content)
    for span, number in ((item.marks.get("context"), 2), (item.marks.get("question"), 3),
                         (item.marks.get("evidence"), 0)):  # fmt: skip
        if span is None:
            continue
        first = len(text[: span[0]].split())  # a token is a word
        part[first : first + len(text[span[0] : span[1]].split())] = number
    if not item.marks:
        part[:] = 3
    part[0] = 1
    rows, said = [], []
    with torch.no_grad():
        for _ in range(tokens):
            output = model(input_ids=ids, output_attentions=True, use_cache=False)
            row = torch.stack(output.attentions)[:, 0, :, -1]  # (L, H, S)
            shares = torch.stack([row[..., :size][..., part == n].sum(-1).mean() for n in range(5)])
            shares[4] += row[..., size:].sum(-1).mean()
            shares[1] += (1 - row.sum(-1)).mean()  # a learned sink
            token = output.logits[0, -1].argmax()
            if token == 2 and rows:
                break
            rows.append(shares)
            if token == 2:
                break
            said.append(int(token))
            ids = torch.cat([ids, token.view(1, 1)], 1)
    reply = words.tokenizer().decode(said, skip_special_tokens=True)
    return rows[0], torch.stack(rows).mean(0), reply


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "deepseek_v3"])
def test_shares_are_those_of_eager_attention(name: str) -> None:
    assert name in DECODERS
    model = build(name)
    for item, found in zip(ITEMS, of(model, CASES, batch_size=3), strict=True):
        last, answer, reply = by_hand(name, item, 3)
        assert found.last.mean((1, 2)) == pytest.approx(last, abs=2e-5)
        assert found.answer.mean((1, 2)) == pytest.approx(answer, abs=2e-5)
        assert found.reply == reply
        assert found.last.sum(0) == pytest.approx(torch.ones_like(found.last[0]), abs=2e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_a_batch_is_its_items(name: str) -> None:
    model = build(name)
    together, alone = of(model, CASES, batch_size=3), of(model, CASES, batch_size=1)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.last, other.last, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.answer, other.answer, atol=1e-5, rtol=0)
        assert (one.reply, one.tokens) == (other.reply, other.tokens)
        assert one.entropy == pytest.approx(other.entropy, abs=1e-5)


def test_every_token_is_in_one_part() -> None:
    (asked,) = prompted(build("llama"), words.tokenizer(), CASES, 3)
    total = torch.stack([asked.regions[name] for name in PARTS]).sum(0)
    assert torch.equal(total, asked.prompt.inputs["attention_mask"])


def test_forced_answers_look_where_eager_attention_looks() -> None:
    item = counting.item("f", (3, 9, 8), (10, 11), (4, 12), evidence=1, answer=11)
    two = Item("g", item.content, words.text(11, 12), item.marks, raw=True)
    short = counting.item("h", (5, 6), (7,), evidence=0, answer=6)
    cases = [Places.of(one, right=False) for one in (two, short)]
    (asked,) = prompted(build("llama"), words.tokenizer(), cases, 2)
    found = forced(build("llama"), words.tokenizer(), asked)
    assert [len(one) for one in found] == [3, 2]
    eager = build("llama", "eager")
    for one, case, tail in zip(found, cases, ([11], []), strict=True):
        ids = torch.tensor([words.tokenizer()(case.item.content)["input_ids"] + tail])
        with torch.no_grad():
            maps = torch.stack(eager(input_ids=ids, output_attentions=True).attentions)[:, 0]
        rows = maps[:, :, -1 - len(tail) :].mean(2)  # those that choose the answer's tokens
        start = 0
        for n, (a, b) in enumerate(case.units):
            stop = start + len(case.text[a:b].split())
            wanted = rows[..., start:stop].sum(-1)
            torch.testing.assert_close(one[n], wanted, atol=1e-5, rtol=0)
            start = stop


def test_text_that_is_not_in_the_prompt_is_refused() -> None:
    case = Places.of(Item("x", words.text(3, 4), "w5"), right=False)
    with pytest.raises(FoveateError, match="chat template changed the text of item 'x'"):
        _offset("<user>W3 W4", case)
    assert _offset("<user>w3 w4", case) == 6
