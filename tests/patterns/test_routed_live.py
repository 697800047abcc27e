"""What chooses by content, on live models with padded batches and several families."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from families import build, inputs, logits
from foveate.patterns import DHSA, HiP, VerticalSlash

SMALL: dict[str, Any] = {
    "hip": HiP(k=2, block_q=4, block_k=1, window=2, sinks=1),
    "dhsa": DHSA(budget=5, chunk=2, apart=0, window=2, sinks=1, block_q=4, last=0),
    "vertical-slash": VerticalSlash(2, 2, last=4, block=2, sinks=1, window=1),
}
ALL: dict[str, Any] = {
    "hip": HiP(k=64, window=1, sinks=0),
    "dhsa": DHSA(budget=64, window=1, sinks=0, block_q=4),
    "vertical-slash": VerticalSlash(64, 100),
}


@pytest.mark.parametrize("padded", ["left", "right"])
@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_what_stands_in_the_padding_changes_nothing(name: str, padded: str) -> None:
    model, given = build("llama"), inputs("llama", length=30, padded=padded)
    real = given["attention_mask"].bool()
    other = dict(given, input_ids=given["input_ids"].masked_fill(~real, 7))
    with fv.attach(model, SMALL[name]):
        a, b = logits(model(**given))[real], logits(model(**other))[real]
    assert bool(a.isfinite().all())
    assert torch.allclose(a, b, atol=1e-6)
    assert not torch.allclose(a, logits(model(**given))[real], atol=1e-3)


@pytest.mark.parametrize("padded", [None, "left", "right"])
@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_with_room_for_all_it_is_the_model(name: str, padded: str | None) -> None:
    for family in ("llama", "gpt2"):
        model, given = build(family), inputs(family, length=30, padded=padded)
        real = given.get("attention_mask", torch.ones_like(given["input_ids"])).bool()
        want = logits(model(**given))[real]
        with fv.attach(model, ALL[name]):
            got = logits(model(**given))[real]
        assert torch.allclose(got, want, atol=1e-5), family


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_a_reference_agrees(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 50, 16, generator=generator)
    k, v = torch.randn(2, 2, 2, 50, 16, generator=generator).unbind(0)
    fast = fv.attention(q, k, v, causal=True, pattern=SMALL[name])
    slow = fv.attention(q, k, v, causal=True, pattern=SMALL[name], backend="reference")
    assert torch.allclose(fast.out, slow.out, atol=1e-5)
    assert torch.allclose(fast.lse.double(), slow.lse.double(), atol=1e-5)
