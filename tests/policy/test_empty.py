"""An empty policy is the model as it is, bit by bit; a policy that is left leaves nothing."""

from __future__ import annotations

import copy

import pytest
import torch

import foveate as fv
from families import DECODERS, NAMES, build, inputs, logits
from foveate.check.state import changed, snapshot
from foveate.tasks import Distractors, prompts
from foveate.tasks.answering import generate
from words import text, tokenizer

EMPTY = fv.Policy()
TURNED = fv.Policy([fv.Emphasize("closest passage", 6.0), fv.SlidingWindow(6, sinks=1)])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_forward(name):
    model, asked = build(name), inputs(name)
    want = logits(model(**asked))
    with fv.attach(model, EMPTY):
        assert torch.equal(logits(model(**asked)), want)
    with fv.attach(model, EMPTY.for_model(model)):
        assert torch.equal(logits(model(**asked)), want)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("padded", [None, "left"])
@torch.no_grad()
def test_generation_with_a_cache(name, padded):
    model, asked = build(name), inputs(name, padded=padded)
    settings = {"max_new_tokens": 5, "do_sample": False, "output_logits": True}
    settings |= {"return_dict_in_generate": True, "eos_token_id": None, "pad_token_id": 0}
    want = model.generate(**asked, **settings)
    with fv.attach(model, EMPTY):
        got = model.generate(**asked, **settings)
    assert torch.equal(got.sequences, want.sequences)
    assert all(torch.equal(a, b) for a, b in zip(got.logits, want.logits, strict=True))


@pytest.mark.parametrize("name", DECODERS)
def test_a_padded_batch_of_items(name):
    model, tok = build(name), tokenizer()
    asked = [{"prompt": text(5, 9, 13, 40, 41, 9)}, {"prompt": text(30, 31)}]
    prompt = EMPTY.prompt(tok, asked)
    want = generate(model, prompt, 6)
    with fv.attach(model, EMPTY, prompt=prompt):
        assert torch.equal(generate(model, prompt, 6), want)
    said = EMPTY.generate(model, tok, list(prompt.items), 6)
    assert said == [tok.decode(row, skip_special_tokens=True).strip() for row in want]


def test_replies_in_a_chat(chats):
    model, tok = chats
    items = Distractors(n=2, passages=3).items(tok)
    ((_, prompt),) = prompts(items, tok, 2)
    want = [tok.decode(row, skip_special_tokens=True).strip() for row in generate(model, prompt, 6)]
    assert EMPTY.generate(model, tok, items, 6) == want
    turned = fv.Policy([fv.Hide("passages")]).generate(model, tok, items, 6)
    assert turned != want


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
@torch.no_grad()
def test_leaving_restores_the_model(name):
    model, tok = build(name), tokenizer()
    asked = {"context": [text(3, 4, 5), text(9, 8, 7)], "prompt": text(9, 8, 20)}
    policy = TURNED.for_model(model)
    prompt = policy.prompt(tok, asked)
    model(**prompt.inputs)
    before, want = snapshot(model), logits(model(**prompt.inputs))
    weights = copy.deepcopy(model.state_dict())
    with fv.attach(model, policy, prompt=prompt):
        assert not torch.equal(logits(model(**prompt.inputs)), want)
        with fv.attach(model, policy, prompt=prompt):  # and nested
            model(**prompt.inputs)
    assert not changed(before, snapshot(model))
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), fv.attach(model, policy, prompt=prompt):
            model(**prompt.inputs)
            raise error
        assert not changed(before, snapshot(model))
    policy.generate(model, tok, list(prompt.items), 3)
    assert not changed(before, snapshot(model))
    assert all(torch.equal(weights[key], one) for key, one in model.state_dict().items())
    assert torch.equal(logits(model(**prompt.inputs)), want)
