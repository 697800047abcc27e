"""Delta Attention: sparse rows plus the difference of a few full rows, repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import foveate as fv
from edited_eager import edited
from families import build, inputs

Make = Callable[[int, int, Any], Any]
WINDOW, SINKS = 5, 1


def baseline(every: int, last: int, heads: Any) -> Any:
    """The window alone."""
    return fv.Measure(fv.mass("generated"))


def corrected(p: Tensor, every: int, last: int, heads: list[int]) -> Tensor:
    """Rows ``P [H, n, n]`` of causal attention as the paper's: window, difference, full end."""
    n = p.shape[-1]
    i = torch.arange(n)
    near = (i[:, None] - i < WINDOW) | (i < SINKS)
    sparse = p * near
    sparse = sparse / sparse.sum(-1, keepdim=True)
    # the code: cut_n = s % every + max(last, every), where every divides that maximum
    cut = n % every + max(last, every)
    assert max(last, every) % every == 0
    end = max(0, n - cut)
    anchor = i // every * every
    rows = sparse + (p - sparse)[:, anchor]
    rows = torch.where((i >= end)[:, None], p, rows)
    here = torch.zeros(len(p), 1, 1, dtype=torch.bool)
    here[heads] = True
    return torch.where(here, rows, sparse)


def check(make: Make) -> None:
    """Against attention written out in float64: every row, padded batches, chosen heads."""
    for every, last, heads, padded in (
        (4, 8, None, None),
        (1, 0, None, "right"),
        (3, 6, None, "left"),
        (8, 4, {0: [1], 1: [0, 3]}, "right"),
        (64, 0, None, "left"),
    ):
        given = inputs("llama", length=33, padded=padded)
        mask = given.get("attention_mask", torch.ones_like(given["input_ids"])).bool()
        chosen = {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]} if heads is None else heads

        def edit(layer: int, p: Tensor) -> Tensor:
            p = p.clone()
            for item, real in enumerate(mask):
                at = real.nonzero()[:, 0]
                grid = item, slice(None), at[:, None], at
                p[grid] = corrected(p[grid], every, last, chosen[layer])
            return p

        eager = build("llama", "eager")
        with torch.no_grad(), edited(eager, edit):
            want = eager(**given).logits
        model = build("llama")
        window = fv.SlidingWindow(WINDOW, sinks=SINKS)
        with torch.no_grad(), fv.attach(model, window, make(every, last, heads)):
            got = model(**given).logits
        assert torch.allclose(got[mask], want[mask], atol=1e-4), (every, last, heads, padded)


def test_it_is_the_papers_formula() -> None:
    check(lambda every, last, heads: fv.DeltaCorrection(every, last=last, heads=heads))
