"""Vertical-slash: lines judged by the last queries, seen by all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from families import build
from foveate.patterns import VerticalSlash
from foveate.patterns.vertical_slash import line_mass

ROUTE: dict[str, Any] = {"causal": True, "q_offset": 0, "scale": 0.25}


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def expected(q: Tensor, k: Tensor, lines: VerticalSlash) -> Tensor:
    """Who sees whom, bool ``[H, S, S]``, line by line."""
    H, S, _ = q.shape
    k = k.repeat_interleave(H // len(k), 0)
    p = (q @ k.mT * 0.25).masked_fill(~torch.ones(S, S).tril().bool(), -float("inf")).softmax(-1)
    few = range(S - min(lines.last, S), S)
    seen = torch.zeros(H, S, S, dtype=torch.bool)
    for h in range(H):
        column = {j: sum(float(p[h, i, j]) for i in few) for j in range(S)}
        slash = {d: sum(float(p[h, i, i - d]) for i in few if i >= d) for d in range(S)}
        column |= dict.fromkeys(range(min(lines.sinks, S)), math.inf)
        slash |= dict.fromkeys(range(min(lines.window, S)), math.inf)
        keys = sorted(column, key=lambda j: -column[j])[: lines.verticals]
        back = sorted(slash, key=lambda d: -slash[d])[: lines.slashes]
        for first in range(0, S, lines.block):
            rows = range(first, first + min(lines.block, S))  # the last as if whole
            mine = {*keys, *(i - d for i in rows for d in back if i >= d)}
            for i in range(first, min(first + lines.block, S)):
                seen[h, i, [j for j in mine if j <= i]] = True
    return seen


@pytest.mark.parametrize(
    "lines",
    [
        VerticalSlash(9, 7, last=16, block=16, sinks=3, window=4),
        VerticalSlash(5, 3, last=10, block=1, sinks=0, window=1),
        VerticalSlash(40, 12, last=200, block=32, sinks=2, window=5),
    ],
)
def test_it_sees_the_lines_written_out(lines: VerticalSlash) -> None:
    q, k, v = random(4, 75, 16), random(2, 75, 16, seed=1), random(2, 75, 16, seed=2)
    seen = expected(q, k, lines)
    assert torch.equal(lines.route(q[None], k[None], **ROUTE).matrix()[0], seen)
    assert not bool(seen[:, -1].all())
    got = fv.attention(*(x[None] for x in (q, k, v)), causal=True, pattern=lines).out[0]
    wide_k, wide_v = (x.repeat_interleave(2, 0) for x in (k, v))
    p = (q @ wide_k.mT * 0.25).masked_fill(~seen, -float("inf")).softmax(-1)
    assert torch.allclose(got, p @ wide_v, atol=1e-9)


def test_more_lines_than_there_are_is_dense() -> None:
    q, k, v = random(2, 4, 130, 16), random(2, 2, 130, 16, seed=1), random(2, 2, 130, 16, seed=2)
    dense = fv.attention(q, k, v, causal=True).out
    for lines in (VerticalSlash(500, 100), VerticalSlash(30, 500), VerticalSlash(500, 500, 5)):
        got = fv.attention(q, k, v, causal=True, pattern=lines).out
        assert torch.allclose(got, dense, atol=1e-12)


def test_masses_are_sums_of_the_attention() -> None:
    q, k = random(2, 4, 9, 8), random(2, 2, 50, 8, seed=1)
    column, diagonal = line_mass(q, k, torch.arange(41, 50).expand(2, -1), 1.0)
    assert torch.allclose(column.sum(-1), torch.full((2, 4), 9.0).double())
    assert torch.allclose(diagonal.sum(-1), torch.full((2, 4), 9.0).double())


def test_one_query_keeps_its_best_keys() -> None:
    q, k = random(1, 1, 1, 8), random(1, 1, 60, 8, seed=1)
    lines = VerticalSlash(6, 1, sinks=0, window=1)
    seen = lines.route(q, k, causal=True, q_offset=59, scale=1.0).matrix()[0, 0, 0]
    best = {59, *(q @ k.mT)[0, 0, 0].topk(6).indices.tolist()}
    assert set(seen.nonzero().flatten().tolist()) == best


def test_padding_is_in_no_line() -> None:
    q, k = random(2, 2, 96, 8), random(2, 2, 96, 8, seed=1)
    k[1, :, :32] *= 100
    real = torch.ones(2, 96, dtype=torch.bool)
    real[1, :32] = False
    lines = VerticalSlash(6, 5, last=16, block=16, sinks=3, window=4)
    seen = lines.route(q, k, **ROUTE, visible=real).matrix()
    assert not bool(seen[1, :, 32:, :32].any())
    alone = lines.route(q[1:, :, 32:], k[1:, :, 32:], **ROUTE).matrix()
    assert torch.equal(seen[1:, :, 32:, 32:], alone)


def test_the_last_real_queries_judge() -> None:
    q, k = random(1, 2, 96, 8), random(1, 2, 96, 8, seed=1)
    real = (torch.arange(96) < 70)[None]
    lines = VerticalSlash(6, 5, last=16, block=16, sinks=3, window=4)
    seen = lines.route(q, k, **ROUTE, visible=real).matrix()[..., :70, :70]
    assert torch.equal(seen, lines.route(q[:, :, :70], k[:, :, :70], **ROUTE).matrix())


@torch.no_grad()
def test_on_a_live_model_it_decodes() -> None:
    model = build("llama")
    ids = torch.randint(5, 60, (1, 40), generator=torch.Generator().manual_seed(0))
    want = model.generate(ids, max_new_tokens=4, do_sample=False)
    with fv.attach(model, VerticalSlash(64, 100)):
        assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False), want)
    few = VerticalSlash(4, 4, last=8, block=8, sinks=2, window=3)
    with fv.attach(model, few):
        assert model.generate(ids, max_new_tokens=4, do_sample=False).shape == want.shape
        logits = model(ids).logits
    assert not torch.allclose(logits, model(ids).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"verticals": 0, "slashes": 100}, "at least 1"),
        ({"verticals": 20, "slashes": 100}, "sinks are among the verticals"),
        ({"verticals": 30, "slashes": 20}, "window are among the slashes"),
        ({"verticals": 30, "slashes": 100, "last": 0}, "at least 1"),
        ({"verticals": 30, "slashes": 100, "block": True}, "whole number"),
    ],
)
def test_settings_that_are_none(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        VerticalSlash(**given)


def test_without_causality_it_refuses() -> None:
    q, k, v = random(3, 1, 2, 40, 8).unbind(0)
    with pytest.raises(fv.FoveateError, match="for causal attention"):
        fv.attention(q, k, v, pattern=VerticalSlash(30, 100))
