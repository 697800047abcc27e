"""A diagnosis of the embedded model, counted anew: eager maps, a mask by hand, a loop by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.advise.diagnosis import diagnose
from foveate.advise.diagnosis.places import Places
from foveate.tasks import Distractors, Item

pytestmark = pytest.mark.slow

TOKENS, N = 8, 6


@pytest.fixture
def eager(smollm2: tuple[Any, Any]) -> Iterator[tuple[Any, Any]]:
    model, tokenizer = smollm2
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    yield model, tokenizer
    model.set_attn_implementation(before)


class ByHand:
    """One item, asked without any of foveate's code."""

    def __init__(self, model: Any, tokenizer: Any, item: Item) -> None:
        self.model, self.tokenizer, self.item = model, tokenizer, item
        chat = [{"role": "user", "content": item.content}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        self.ids = torch.tensor([found["input_ids"]])
        self.text, self.places = text, found["offset_mapping"]
        special = set(tokenizer.all_special_ids)
        self.sink = torch.tensor([i == 0 or t in special for i, t in enumerate(found["input_ids"])])

    def tokens_of(self, piece: str) -> Tensor:
        """Tokens with a letter in the piece, and blanks that are tokens of their own in it."""
        start, text = self.text.index(piece), self.text
        inside = []
        for a, b in self.places:
            letters = [i for i in range(a, b) if not text[i].isspace()] or list(range(a, b))
            inside.append(any(start <= i < start + len(piece) for i in letters))
        return torch.tensor(inside) & ~self.sink

    @torch.no_grad()
    def share(self, piece: str) -> float:
        maps = self.model(input_ids=self.ids, output_attentions=True, use_cache=False).attentions
        return float(torch.stack(maps)[:, 0, :, -1][..., self.tokens_of(piece)].sum(-1).mean())

    @torch.no_grad()
    def reply(self, piece: str | None = None, factor: float = 1.0) -> str:
        """Greedy, with the attention on a piece multiplied before renormalising."""
        size, cache, ids, said = self.ids.shape[1], None, self.ids, []
        low = torch.finfo(torch.float32).min
        weight = torch.zeros(size)
        if piece is not None:
            weight[self.tokens_of(piece)] = math.log(factor) if factor else low
        while len(said) < TOKENS:
            past = size + len(said) - ids.shape[1]
            keys = past + ids.shape[1]
            bias = torch.cat([weight, torch.zeros(keys - size)])
            mask = torch.full((ids.shape[1], keys), low).triu(past + 1).clamp(min=low)
            mask = (mask + bias).clamp(min=low)[None, None]
            output = self.model(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True,
                position_ids=torch.arange(past, keys)[None],
            )  # fmt: skip
            cache, token = output.past_key_values, int(output.logits[0, -1].argmax())
            if token == self.tokenizer.eos_token_id:
                break
            said.append(token)
            ids = torch.tensor([[token]])
        return self.tokenizer.decode(said, skip_special_tokens=True).strip()


@pytest.mark.parametrize("template", ["houses", "facts"])
def test_the_sentences_are_true(template: str, smollm2: Any, eager: Any) -> None:
    task = Distractors(template=template, passages=6, n=N, seed=2)
    items = task.items()
    hands = [ByHand(*eager, item) for item in items]
    right = [task.right(item, hand.reply()) for item, hand in zip(items, hands, strict=True)]
    shares = [hand.share(str(item.marks["evidence"]))
              for item, hand in zip(items, hands, strict=True)]  # fmt: skip
    model, tokenizer = smollm2
    model.set_attn_implementation("sdpa")
    found = diagnose(
        model, tokenizer, items, right, judge=task.right, max_new_tokens=TOKENS, batch_size=4
    )
    model.set_attn_implementation("eager")
    by = {one.id: one for one in found.items}
    failing = [n for n, good in enumerate(right) if not good]
    for item, share in zip(items, shares, strict=True):
        assert by[item.id].last["evidence"] == pytest.approx(share, abs=1e-4)
    raised = {n: task.right(items[n], hands[n].reply(str(items[n].marks["evidence"]), 5.0))
              for n in failing}  # fmt: skip
    hidden = [task.right(item, hand.reply(str(item.marks["evidence"]), 0.0))
              for item, hand in zip(items, hands, strict=True)]  # fmt: skip
    other = {}
    for n in failing:
        (span,) = Places.of(items[n], right=False).control
        other[n] = task.right(items[n], hands[n].reply(str(items[n].content)[slice(*span)], 5.0))
    assert [by[item.id].hidden for item in items] == hidden
    assert {n: by[items[n].id].raised for n in failing} == raised
    assert {n: by[items[n].id].control for n in failing} == other

    said = " ".join(found.sentences)
    assert f"{len(failing)} of {N} items fail." in said
    under = sum(shares[n] < 0.02 for n in failing)
    if under:
        assert f"On {under} of {len(failing)} failures the evidence got under 2 %" in said
    mends = re.search(r"mends (\d+) of (\d+) \(raising another passage mends (\d+);", said)
    assert mends is not None
    assert [int(x) for x in mends.groups()] == [
        sum(raised.values()), len(failing), sum(other.values())
    ]  # fmt: skip
    if len(failing) < N:
        broken = sum(not hidden[n] for n in range(N) if right[n])
        assert f"Hiding the evidence breaks {broken} of {N - len(failing)} right answer" in said
