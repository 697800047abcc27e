"""HiP: keys by tree search, sinks and a window."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from families import build
from foveate.patterns.hip import HiP, tree_search

Make = Callable[..., Any]


def baseline(**settings: Any) -> Any:
    """Plain attention."""
    return fv.patterns.Causal()


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def search(queries: Tensor, k: Tensor, begin: int, stop: int, unit: int, nodes: int, stride: int):
    """Blocks of keys in ``[begin, stop)`` for one block of queries ``[s, D]``, in plain Python."""

    def score(block: int) -> float:
        return float((queries @ k[block * unit : (block + 1) * unit : stride].T).max())

    wide = stop - begin
    edges = [begin + wide * i // nodes for i in range(nodes + 1)]
    ranges = [(a, b) for a, b in pairwise(edges) if a < b]
    while any(b - a > 1 for a, b in ranges):
        halves = [half for a, b in ranges for half in ((a, (a + b) // 2), ((a + b) // 2, b))]
        halves = [(a, b) for a, b in halves if a < b]
        halves.sort(key=lambda ab: -score(ab[0] + (ab[1] - ab[0]) // 2))
        ranges = halves[:nodes]
    return sorted(a for a, _ in ranges)


def expected(q: Tensor, k: Tensor, pattern: HiP) -> Tensor:
    """Who sees whom in a causal call, bool ``[H, S, S]``."""
    (H, S, _), unit = q.shape, pattern.block_k
    sinks = -(-pattern.sinks // unit)
    seen = torch.zeros(H, S, S, dtype=torch.bool)
    for h in range(H):
        keys = k[h * len(k) // H]
        for first in range(0, S, pattern.block_q):
            last = min(S, first + pattern.block_q) - 1
            stop = max(sinks, (first + 1 - pattern.window) // unit)
            few = q[h, first : last + 1 : pattern.stride_q]
            nodes = pattern.k // unit
            found = search(few, keys, sinks, stop, unit, nodes, pattern.stride_k)
            mine = torch.zeros(S, dtype=torch.bool)
            for block in (*range(sinks), *found):
                mine[block * unit : (block + 1) * unit] = True
            mine[stop * unit :] = True
            seen[h, first : last + 1] = mine
    return seen & torch.ones(S, S, dtype=torch.bool).tril()


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attention written out: ``q [H,S,D]``, ``k, v [Hkv,S,D]``."""
    k, v = (x.repeat_interleave(len(q) // len(x), 0) for x in (k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~seen, -float("inf")).softmax(-1) @ v


def check(make: Make) -> None:
    """Against a search in plain Python, float64, grouped heads."""
    for S, settings in (
        (150, {"k": 16, "block_q": 16, "stride_q": 3, "block_k": 4, "window": 20, "sinks": 5}),
        (97, {"k": 6, "block_q": 8, "stride_q": 1, "block_k": 1, "window": 1, "sinks": 0}),
        (130, {"k": 24, "block_q": 32, "stride_q": 2, "block_k": 8, "stride_k": 3, "window": 9}),
    ):
        q, k, v = random(4, S, 16), random(2, S, 16, seed=1), random(2, S, 16, seed=2)
        want = attend(q, k, v, expected(q, k, HiP(**{"stride_q": 2, **settings})))
        pattern = make(**settings)
        got = fv.attention(*(x[None] for x in (q, k, v)), causal=True, pattern=pattern).out[0]
        assert torch.allclose(got, want, atol=1e-9), (S, settings)


def test_it_is_the_search_written_out() -> None:
    check(HiP)


def test_with_as_many_keys_as_there_are_it_is_dense() -> None:
    q, k, v = random(2, 4, 210, 16), random(2, 2, 210, 16, seed=1), random(2, 2, 210, 16, seed=2)
    for causal in (True, False):
        dense = fv.attention(q, k, v, causal=causal).out
        for block in (1, 8):
            hip = HiP(k=1024, block_k=block, window=1, sinks=0)
            got = fv.attention(q, k, v, causal=causal, pattern=hip).out
            assert torch.allclose(got, dense, atol=1e-12)


@pytest.mark.parametrize("rising", [True, False])
def test_of_scores_that_rise_or_fall_it_finds_the_best(rising: bool) -> None:
    for n, nodes in ((300, 7), (64, 8), (1000, 16)):
        level = torch.arange(n).double()
        k = (level if rising else -level).view(1, 1, n, 1, 1)
        q = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
        found, _ = tree_search(q, k, torch.tensor([0]), torch.tensor([[n]]), nodes)
        best = range(n - nodes, n) if rising else range(nodes)
        assert found[0, 0, 0].tolist() == list(best)


def test_what_is_scored_grows_with_the_logarithm() -> None:
    nodes, counts = 16, []
    for n in (64, 256, 1024, 4096):
        q, k = random(1, 1, 1, 1, 8), random(1, 1, n, 1, 8, seed=1)
        _, scored = tree_search(q, k, torch.tensor([0]), torch.tensor([[n]]), nodes)
        counts.append(scored)
    assert counts == [2 * nodes * round(math.log2(n / nodes)) for n in (64, 256, 1024, 4096)]


def test_the_window_and_the_sinks_are_always_seen() -> None:
    q, k = random(1, 2, 300, 8), random(1, 2, 300, 8, seed=1)
    hip = HiP(k=8, block_q=32, block_k=4, window=40, sinks=6)
    seen = hip.route(q, k, causal=True, q_offset=0, scale=1.0).matrix()
    i = torch.arange(300)
    near = (i[:, None] - i < 40) & (i <= i[:, None])
    sinks = (i < 6) & (i <= i[:, None])
    assert bool(seen[:, :, near | sinks].all()) and not bool(seen.all())


def test_chunks_of_whole_blocks_choose_as_the_whole() -> None:
    q, k, v = random(1, 2, 256, 8), random(1, 2, 256, 8, seed=1), random(1, 2, 256, 8, seed=2)
    hip = HiP(k=16, block_q=32, block_k=4, window=16, sinks=4)
    whole = fv.attention(q, k, v, causal=True, pattern=hip).out
    for a, b in ((0, 96), (96, 256)):
        part = fv.attention(q[:, :, a:b], k[:, :, :b], v[:, :, :b], causal=True, pattern=hip).out
        assert torch.allclose(part, whole[:, :, a:b], atol=1e-12)


@torch.no_grad()
def test_on_a_live_model_it_decodes_and_is_dense_with_a_large_k() -> None:
    model = build("llama")
    ids = torch.randint(5, 60, (1, 40), generator=torch.Generator().manual_seed(0))
    want = model.generate(ids, max_new_tokens=6, do_sample=False)
    for small in (False, True):
        hip = HiP(k=4 if small else 64, block_q=8, block_k=2, window=4, sinks=2)
        with fv.attach(model, hip):
            got = model.generate(ids, max_new_tokens=6, do_sample=False)
            last = model(got[:, :-1]).logits[:, -1:]
        assert got.shape == want.shape
        if not small:
            assert torch.equal(got, want)
        elif got.shape == want.shape:
            assert not torch.allclose(last, model(got[:, :-1]).logits[:, -1:], atol=1e-5)


@torch.no_grad()
def test_padding_is_neither_searched_nor_a_sink() -> None:
    q, k, v = random(2, 2, 120, 8), random(2, 2, 120, 8, seed=1), random(2, 2, 120, 8, seed=2)
    k[1, :, :40] *= 100  # whatever stands there
    real = torch.ones(2, 120, dtype=torch.bool)
    real[1, :40] = False
    hip = HiP(k=8, block_q=8, block_k=4, window=8, sinks=4)
    route = {"causal": True, "q_offset": 0, "scale": 1.0}
    seen = hip.route(q, k, **route, visible=real).matrix()
    assert not bool(seen[1, :, 48:, :40].any())
    alone = hip.route(q[1:, :, 40:], k[1:, :, 40:], **route).matrix()
    assert torch.equal(seen[1:, :, 40:, 40:], alone)  # 40 is five blocks: they fall alike
    bias = torch.where(real, 0.0, -float("inf")).double()[:, None]
    got = fv.attention(q, k, v, causal=True, key_bias=bias, pattern=hip).out[1:, :, 40:]
    parts = (x[1:, :, 40:] for x in (q, k, v))
    assert torch.allclose(got, fv.attention(*parts, causal=True, pattern=hip).out, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"k": 0}, "at least 1"),
        ({"k": 6, "block_k": 4}, "multiple of block_k"),
        ({"block_q": 8, "stride_q": 9}, "a stride goes through a block"),
        ({"block_k": 2, "stride_k": 3}, "a stride goes through a block"),
        ({"window": 0}, "at least 1"),
        ({"sinks": -1}, "at least 0"),
        ({"block_q": 2.5}, "whole number"),
    ],
)
def test_settings_that_are_none(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        HiP(**given)
