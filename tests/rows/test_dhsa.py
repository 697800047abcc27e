"""DHSA: keys chosen by chunks, their mean times the square root of their length."""

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
from foveate.patterns.chunks import (
    BoundaryPredictor,
    chunk_edges,
    fixed_edges,
    similarity_shifts,
)
from foveate.patterns.dhsa import DHSA, best_tokens, chunk_means

Make = Callable[..., Any]
ROUTE: dict[str, Any] = {"causal": True, "q_offset": 0, "scale": 1.0}


def baseline(**settings: Any) -> Any:
    """Plain attention."""
    return fv.patterns.Causal()


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def ending(*places: int) -> Callable[[Tensor], Tensor]:
    """Boundaries just before these keys."""

    def scores(k: Tensor) -> Tensor:
        found = torch.full((k.shape[0], k.shape[2]), -float("inf"))
        found[:, [place - 1 for place in places]] = 1.0
        return found

    return scores


def expected(q: Tensor, k: Tensor, edges: list[int], given: dict[str, Any]) -> Tensor:
    """Who sees whom in a causal call, bool ``[H, S, S]``: scores copied to the tokens, sorted."""
    H, S, _ = q.shape
    k = k.repeat_interleave(H // len(k), 0)
    if given.get("shared"):
        q, k = (x.mean(0, keepdim=True).expand(H, -1, -1) for x in (q, k))
    window, sinks, size, last = (given[n] for n in ("window", "sinks", "block_q", "last"))
    seen = torch.zeros(H, S, S, dtype=torch.bool)
    for h in range(H):
        for first in range(0, S - last, size):
            rows = slice(first, min(first + size, S - last))
            mean = q[h, rows].sum(0) / math.sqrt(rows.stop - first)
            scores = torch.cat(
                [
                    (mean @ k[h, a:b].sum(0) / math.sqrt(b - a)).expand(b - a)
                    for a, b in pairwise(edges)
                ]
            )
            free = range(sinks, max(sinks, first + 1 - window))
            order = sorted(free, key=lambda j: (-float(scores[j]), j))
            mine = [*range(sinks), *order[: given["budget"] - sinks - window]]
            seen[h, rows, [*mine, *range(max(sinks, first + 1 - window), S)]] = True
    seen[:, S - last :] = True
    return seen & torch.ones(S, S, dtype=torch.bool).tril()


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attention written out: ``q [H,S,D]``, ``k, v [Hkv,S,D]``."""
    k, v = (x.repeat_interleave(len(q) // len(x), 0) for x in (k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~seen, -float("inf")).softmax(-1) @ v


def check(make: Make) -> None:
    """Against token scores sorted in float64, for chunks of any lengths, grouped heads."""
    places = (3, 4, 17, 30, 31, 60, 64, 90, 110)
    base = {"block_q": 16, "window": 9, "sinks": 5, "budget": 40, "last": 0, "chunk": 1, "apart": 0}
    for S, more in (
        (140, {"boundaries": ending(*places)}),
        (131, {"boundaries": ending(*places), "last": 12, "shared": True}),
        (120, {"boundaries": "fixed", "chunk": 7, "block_q": 32}),
    ):
        given = {**base, **more}
        edges = [0, *places, S]
        if given["boundaries"] == "fixed":
            edges = [*range(0, S, 7), S]
        q, k, v = random(4, S, 16), random(2, S, 16, seed=1), random(2, S, 16, seed=2)
        want = attend(q, k, v, expected(q, k, edges, given))
        got = fv.attention(*(x[None] for x in (q, k, v)), causal=True, pattern=make(**given)).out
        assert torch.allclose(got[0], want, atol=1e-9), (S, more)


def test_it_is_the_formula_on_tokens() -> None:
    check(DHSA)


def test_with_a_budget_for_all_it_is_dense_whatever_the_chunks() -> None:
    q, k, v = random(2, 4, 210, 16), random(2, 2, 210, 16, seed=1), random(2, 2, 210, 16, seed=2)
    for causal in (True, False):
        dense = fv.attention(q, k, v, causal=causal).out
        for boundaries in ("similarity", "fixed", lambda k: random(2, k.shape[2], seed=3)):
            dhsa = DHSA(budget=1000, boundaries=boundaries, window=1, sinks=0, block_q=32, last=7)
            got = fv.attention(q, k, v, causal=causal, pattern=dhsa).out
            assert torch.allclose(got, dense, atol=1e-12)


def test_chunks_of_one_key_are_the_true_best() -> None:
    q, k = random(1, 2, 90, 8), random(1, 2, 90, 8, seed=1)
    one = DHSA(budget=11, chunk=1, boundaries="fixed", block_q=1, window=1, sinks=0, last=0)
    seen = one.route(q, k, **ROUTE).matrix()
    scores = q @ k.mT
    scores = scores.masked_fill(~torch.ones(90, 90, dtype=torch.bool).tril(-1), -float("inf"))
    for i in range(12, 90):
        for h in range(2):
            best = {i, *scores[0, h, i].topk(10).indices.tolist()}
            assert set(seen[0, h, i].nonzero().flatten().tolist()) == best


def test_alike_keys_score_as_one_times_the_square_root_of_their_number() -> None:
    key, q = random(1, 1, 1, 8), random(1, 1, 1, 8, seed=1)
    edges = torch.tensor([[0, 1, 5, 14, 14]])
    means = chunk_means(key.expand(-1, -1, 14, -1), edges)
    ratio = (q @ means.mT / (q @ key.mT))[0, 0, 0]
    want = torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=torch.float64)
    assert torch.allclose(ratio, want, atol=1e-12)


def test_boundaries_are_the_greedy_choice() -> None:
    for seed in range(6):
        scores = random(3, 80, seed=seed).float()
        scores[:, :3] = scores[:, 77:] = -float("inf")
        for chunks, apart in ((9, 4), (40, 2), (5, 0), (80, 0)):
            edges = chunk_edges(scores, chunks, apart)
            assert edges.shape == (3, chunks + 1)
            for b in range(3):
                taken: list[int] = []
                for j in scores[b].argsort(descending=True, stable=True).tolist():
                    fits = all(abs(j - other) > apart for other in taken)
                    if scores[b, j] > -float("inf") and fits and len(taken) < chunks - 1:
                        taken.append(j)
                want = [0, *sorted(j + 1 for j in taken)]
                assert edges[b].tolist() == want + [80] * (chunks + 1 - len(want))


def test_similarity_finds_where_the_keys_change() -> None:
    topics = random(5, 1, 16) * 3
    k = torch.cat([topic.expand(n, -1) for topic, n in zip(topics, (9, 14, 30, 12, 15))])
    k = (k + 0.1 * random(80, 16, seed=1))[None, None]
    edges = chunk_edges(similarity_shifts(k), 5, 4)
    assert edges[0].tolist() == [0, 9, 23, 53, 65, 80]


def test_the_predictor_gives_scores_and_refuses_other_keys() -> None:
    torch.manual_seed(0)
    predictor = BoundaryPredictor(32, heads=4, hidden=8).eval()
    k = random(2, 2, 40, 16).float()
    scores = predictor(k)
    assert scores.shape == (2, 40)
    inside = torch.zeros(40, dtype=torch.bool)
    inside[3:36] = True
    assert torch.equal(scores.isfinite()[0], inside)
    shifted = predictor(torch.nn.functional.pad(k, (0, 0, 5, 0)))[:, 5:]
    assert torch.allclose(shifted[:, 8:], scores[:, 8:], atol=1e-5)  # it looks at 8 keys only
    assert predictor(k[:, :, :7]).isinf().all()
    dhsa = DHSA(budget=20, chunk=4, apart=1, boundaries=predictor, window=4, sinks=2, last=0)
    assert dhsa.edges(k).shape == (2, 11)
    with pytest.raises(fv.FoveateError, match="made for 32 key channels"):
        dhsa.edges(random(1, 1, 40, 16).float())
    with pytest.raises(fv.FoveateError, match="multiple of heads"):
        BoundaryPredictor(30, heads=4)


def test_padding_is_in_no_chunk_and_no_sink() -> None:
    q, k, v = random(2, 2, 120, 8), random(2, 2, 120, 8, seed=1), random(2, 2, 120, 8, seed=2)
    k[1, :, :48] *= 100
    real = torch.ones(2, 120, dtype=torch.bool)
    real[1, :48] = False
    for boundaries in ("fixed", "similarity"):
        sizes = {"chunk": 8, "apart": 4, "block_q": 8, "window": 8, "sinks": 4, "last": 0}
        dhsa = DHSA(24, boundaries=boundaries, **sizes)
        seen = dhsa.route(q, k, **ROUTE, visible=real).matrix()
        assert not bool(seen[1, :, 48:, :48].any())
        bias = torch.where(real, 0.0, -float("inf")).double()[:, None]
        got = fv.attention(q, k, v, causal=True, key_bias=bias, pattern=dhsa).out
        assert bool(got.isfinite().all())
        if boundaries == "fixed":  # 48 is six chunks and six blocks: they fall alike
            parts = (x[1:, :, 48:] for x in (q, k, v))
            alone = fv.attention(*parts, causal=True, pattern=dhsa).out
            assert torch.allclose(got[1:, :, 48:], alone, atol=1e-12)


@torch.no_grad()
def test_on_a_live_model_it_decodes_and_is_dense_with_a_large_budget() -> None:
    model = build("llama")
    ids = torch.randint(5, 60, (1, 40), generator=torch.Generator().manual_seed(0))
    want = model.generate(ids, max_new_tokens=6, do_sample=False)
    with fv.attach(model, DHSA(budget=64, window=4, sinks=2, block_q=8)):
        assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=False), want)
    small = DHSA(budget=10, chunk=4, apart=1, window=4, sinks=2, block_q=8, last=0)
    with fv.attach(model, small):
        assert model.generate(ids, max_new_tokens=6, do_sample=False).shape == want.shape
        logits = model(ids).logits
    assert not torch.allclose(logits, model(ids).logits, atol=1e-5)


def test_the_budget_is_the_best_of_the_copied_scores() -> None:
    scores, edges = random(1, 2, 3, 6), torch.tensor([[0, 4, 5, 11, 20, 20, 32]])
    stop = torch.tensor([[0, 9, 32]])
    found = best_tokens(scores, edges, torch.tensor([[2]]), stop, 10)
    for h in range(2):
        for n in range(3):
            values = scores[0, h, n].repeat_interleave(edges[0].diff())
            allowed = sorted(range(2, int(stop[0, n])), key=lambda j: (-float(values[j]), j))
            want = allowed[:10]
            assert found[0, h, n].tolist() == want + [-1] * (10 - len(want))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"budget": 256}, "leave nothing to choose"),
        ({"budget": 0}, "at least 1"),
        ({"chunk": 0}, "at least 1"),
        ({"window": 0}, "at least 1"),
        ({"last": -1}, "at least 0"),
        ({"boundaries": "sentences"}, "a callable from keys"),
        ({"boundaries": 8}, "a callable from keys"),
    ],
)
def test_settings_that_are_none(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        DHSA(**given)


def test_scores_of_another_shape_are_refused() -> None:
    k = random(1, 2, 40, 8)
    with pytest.raises(fv.FoveateError, match=r"\[1, 40\] was wanted"):
        DHSA(boundaries=lambda k: k[0, 0, :, 0]).edges(k)
    assert fixed_edges(1, 10, 4, k.device).tolist() == [[0, 4, 8, 10]]
