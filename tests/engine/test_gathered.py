"""Patterns on flash kernels, block by block, against dense masks in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from foveate.engine.backends import gathered
from foveate.patterns import (
    CrossShaped,
    Dilated,
    Documents,
    Halo,
    MultiWindow,
    Neighborhood,
    Pattern,
    SlidingWindow,
    Strided,
    Windows,
)
from foveate.patterns._algebra import Moved, OnHeads

S = 384  # three blocks of queries
GRID = (16, 24)
PATTERNS: list[Any] = [
    SlidingWindow(50),
    SlidingWindow(50, sinks=3),
    SlidingWindow(33, sinks=2, causal=False),
    SlidingWindow(40) | Dilated(6, 30),
    Strided(40) & SlidingWindow(200),
    Documents([100, 30, 254]),
    MultiWindow([7, 32, 128, S]),
    OnHeads(SlidingWindow(30, sinks=2), (0, 3), 4),
    Moved(SlidingWindow(30, sinks=4), torch.tensor([0, -77])),
    Neighborhood(GRID, 5),
    Neighborhood(GRID, (5, 4), stride=(2, 1), dilation=(1, 2)),
    Halo(GRID, 4, 2),
    Windows(GRID, 8, shift=4),
    CrossShaped(GRID, 4, heads=4),
    SlidingWindow(20) & Documents([S]),
    ~SlidingWindow(100, causal=False),  # many rows, few of which see nothing
    Dilated(4, 1) & ~SlidingWindow(2),  # the first rows see nothing
]


def tensors(Sq: int = S) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 4, Sq, 16), torch.randn(2, 2, S, 16), torch.randn(2, 2, S, 16)


def oracle(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, key_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    q, k, v = (x.double() for x in (q, k, v))
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    s = q @ k.mT / 4
    if key_mask is not None:
        s = s + key_mask.double()
    s = s.masked_fill(~seen, -torch.inf)
    return s.softmax(-1).nan_to_num() @ v, s.logsumexp(-1)


def whole(pattern: Any, causal: bool, offset: int = 0, Sq: int = S) -> Tensor:
    seen = pattern.tile(torch.arange(Sq) + offset, torch.arange(S))
    return seen & (torch.arange(S) <= torch.arange(Sq)[:, None] + offset) if causal else seen


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_a_cut_pattern_is_its_mask(pattern: Pattern, causal: bool) -> None:
    q, k, v = tensors()
    cut = gathered.cut(pattern, causal, 0, S, S)
    assert cut is not None
    out, lse = gathered.run(cut, q, k, v, None, 0.25)
    want, want_lse = oracle(q, k, v, whole(pattern, causal))
    assert torch.allclose(out.double(), want, atol=1e-5)
    assert torch.allclose(lse.double(), want_lse, atol=1e-5)
    for part in cut.parts:  # every query once
        if part.groups is None:
            continue
        rows = torch.cat([group.rows.flatten() for group in part.groups])
        assert torch.equal(rows.sort().values, torch.arange(S))


def test_it_computes_less_than_the_matrix() -> None:
    for pattern in (SlidingWindow(50, sinks=3), Neighborhood((64, 64), 7)):
        n = 4096
        cut = gathered.cut(pattern, False, 0, n, n)
        assert cut is not None and cut.pairs < 0.12 * n * n
        held = sum(g.masks.numel() for part in cut.parts for g in part.groups or ())
        assert held < 0.15 * n * n


@pytest.mark.parametrize("pattern", PATTERNS[:8], ids=repr)
def test_key_only_terms(pattern: Pattern) -> None:
    q, k, v = tensors()
    key_mask = torch.randn(2, 4, 1, S)
    key_mask[0, :, :, :60] = -torch.inf
    cut = gathered.cut(pattern, True, 0, S, S)
    assert cut is not None
    out, lse = gathered.run(cut, q, k, v, key_mask, 0.25)
    want, want_lse = oracle(q, k, v, whole(pattern, True), key_mask)
    assert torch.allclose(out.double(), want, atol=1e-5)
    assert torch.allclose(lse.double(), want_lse, atol=1e-5)


@pytest.mark.parametrize(("Sq", "offset"), [(1, 383), (5, 100), (130, 254), (130, 20)])
def test_a_chunk_of_queries(Sq: int, offset: int) -> None:
    q, k, v = tensors(Sq)
    pattern = SlidingWindow(50, sinks=3)
    cut = gathered.cut(pattern, True, offset, Sq, S)
    assert cut is not None
    out, _ = gathered.run(cut, q, k, v, None, 0.25)
    want, _ = oracle(q, k, v, whole(pattern, True, offset, Sq))
    assert torch.allclose(out.double(), want, atol=1e-5)


@pytest.mark.parametrize("pattern", [PATTERNS[1], PATTERNS[6], PATTERNS[9]], ids=repr)
def test_gradients(pattern: Pattern) -> None:
    found = []
    for backend in ("auto", "reference"):
        q, k, v = (x.requires_grad_() for x in tensors())
        y = fv.attention(q, k, v, pattern=pattern, backend=backend)
        (y.out.float().square().sum() + y.lse.float().clamp(min=-50).sum()).backward()
        found.append((q.grad, k.grad, v.grad))
    for a, b in zip(*found, strict=True):
        assert a is not None and b is not None and torch.allclose(a, b, atol=1e-4)


def test_the_planner_gathers_where_that_computes_less() -> None:
    shapes = fv.Shapes(1, 9, 3, 8192, 8192, 64, 64, torch.float32, torch.device("cpu"))
    program = fv.Program(pattern=SlidingWindow(256, sinks=4), causal=True)
    plan = fv.plan(program, shapes)
    assert plan.output == "flash" and "block" in plan.explain()
    capped = fv.plan(program.evolve(softcap=5.0), shapes)
    assert capped.output == "tiles"


def test_gains_columns_and_measures_beside_a_pattern() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 1024, 16), torch.randn(1, 2, 1024, 16), torch.randn(1, 2, 1024, 16)
    region = torch.arange(1024) % 7 == 0
    gain = torch.rand(1, 4, 1024) + 0.5  # differs by query: a column
    options: dict[str, Any] = {
        "pattern": SlidingWindow(100, sinks=4),
        "causal": True,
        "regions": {"r": region},
        "gains": {"r": gain},
        "sinks": torch.randn(4),
        "measures": [fv.mass("r"), fv.distance()],
    }
    got = fv.attention(q, k, v, **options)
    want = fv.attention(q, k, v, **options, backend="reference")
    assert torch.allclose(got.out, want.out.float(), atol=1e-5)
    for key in want.measures:
        assert torch.allclose(got.measures[key], want.measures[key].float(), atol=2e-4, rtol=1e-5)


def test_what_was_cut_without_gradients_serves_a_backward_later() -> None:
    pattern = Strided(37)  # of no other test: the cut is kept from the first call
    q, k, v = torch.randn(3, 1, 2, 200, 16).unbind(0)
    with torch.inference_mode():
        fv.attention(q, k, v, causal=True, pattern=pattern)
    fv.attention(q.requires_grad_(), k, v, causal=True, pattern=pattern).out.sum().backward()
    assert q.grad is not None and bool(q.grad.isfinite().all())
