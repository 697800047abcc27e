"""Prompts read in pieces: the same answers, with less memory at once."""

from __future__ import annotations

import pytest
import torch

import foveate as fv
from families import build
from foveate.decoding import ChunkedPrefill
from foveate.tasks import answer
from words import ITEMS, tokenizer

WORDS = tokenizer()


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_the_same_answers_as_in_one_piece(family, size):
    model = build(family)
    said = ChunkedPrefill(size).generate(model, WORDS, ITEMS, 6)
    assert said == answer(model, WORDS, ITEMS, max_new_tokens=6)


def test_no_forward_reads_more_than_the_size():
    model, seen = build("llama"), []
    hook = model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[1])
    )
    ChunkedPrefill(4, batch_size=2).generate(model, WORDS, ITEMS, 2)
    hook.remove()
    assert max(seen) == 4 and sum(seen) > 4 * torch.tensor(len(ITEMS) / 2).ceil()


def test_what_is_refused():
    with pytest.raises(fv.FoveateError, match="size=0 was given"):
        ChunkedPrefill(0)
    with pytest.raises(fv.FoveateError, match="batch_size=True"):
        ChunkedPrefill(4, batch_size=True)
    with pytest.raises(fv.FoveateError, match="in an encoder"):
        ChunkedPrefill(4).generate(build("t5"), WORDS, ITEMS)
