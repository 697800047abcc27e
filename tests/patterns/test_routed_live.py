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


@pytest.mark.parametrize("name", SMALL)
def test_gradients_go_through_what_was_chosen(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 1, 2, 40, 8, generator=generator, dtype=torch.float64).unbind(0)
    parts = [x.requires_grad_() for x in (q, k, v)]
    out = fv.attention(*parts, causal=True, pattern=SMALL[name]).out
    got = torch.autograd.grad(out.sin().sum(), parts)
    seen = SMALL[name].route(q, k, causal=True, q_offset=0, scale=8**-0.5).matrix()
    p = (q @ k.mT * 8**-0.5).masked_fill(~seen, -float("inf")).softmax(-1)
    want = torch.autograd.grad((p @ v).sin().sum(), parts)
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SMALL)
def test_in_half_precision_it_is_its_own_mask(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    q, k, v = torch.randn(3, 1, 2, 40, 16, generator=generator).to(dtype).unbind(0)
    got = fv.attention(q, k, v, causal=True, pattern=SMALL[name]).out
    seen = SMALL[name].route(q, k, causal=True, q_offset=0, scale=0.25).matrix()
    p = (q.double() @ k.double().mT / 4).masked_fill(~seen, -float("inf")).softmax(-1)
    assert got.dtype == dtype
    assert torch.allclose(got.double(), p @ v.double(), atol=2e-2)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_combined_and_on_some_heads_it_is_right(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(3, 1, 2, 40, 8, generator=generator, dtype=torch.float64).unbind(0)
    seen = SMALL[name].route(q, k, causal=True, q_offset=0, scale=8**-0.5).matrix()
    wide = fv.SlidingWindow(9)
    got = fv.attention(q, k, v, causal=True, pattern=SMALL[name] | wide).out
    p = (q @ k.mT * 8**-0.5).masked_fill(~(seen | wide.mask(40)), -float("inf")).softmax(-1)
    assert torch.allclose(got, p @ v, atol=1e-9)
    model, given = build("llama"), inputs("llama", length=30)
    with fv.attach(model, fv.Select(SMALL[name], heads=[0])):
        one = logits(model(**given))
    with fv.attach(model, SMALL[name]):
        every = logits(model(**given))
    assert not torch.allclose(one, every, atol=1e-4)
    assert not torch.allclose(one, logits(model(**given)), atol=1e-4)
