"""DiNAT: dilated neighbourhood attention with a position bias, and blocks local and dilated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
import neighborhood_oracle as oracle
from foveate.layers import DiNAT, NeighborhoodAttention, neighborhood_attention
from foveate.patterns import Neighborhood

Make = Callable[..., Any]

CASES = [
    # grid, window, dilation
    ((23,), (5,), (4,)),
    ((9, 8), (3, 2), (3, 4)),
    ((11, 9), (5, 2), (2, 3)),
    ((4, 3, 4), (2, 3, 2), (2, 1, 1)),
]


def baseline(dim: int, heads: int, grid: Any, window: Any, dilation: Any) -> Any:
    """Local only: neighbourhood attention without dilation, with its bias."""
    return NeighborhoodAttention(dim, heads, grid, window)


def check(make: Make) -> None:
    """The layer and its gradients against its own weights used in float64, pair by pair."""
    g = torch.Generator().manual_seed(0)
    for grid, window, dilation in CASES:
        torch.manual_seed(0)
        layer = make(16, 2, grid, window, dilation)
        with torch.no_grad():
            layer.table.copy_(torch.randn(layer.table.shape, generator=g))
        x = torch.randn(2, math.prod(grid), 16, generator=g, requires_grad=True)
        ones = (1,) * len(grid)
        seen = oracle.mask(grid, window, ones, dilation, (False,) * len(grid))
        assert bool((seen.sum(1) == math.prod(window)).all())  # each has exactly as many keys
        table = layer.table.detach().clone().requires_grad_()
        bias = biased(grid, window, dilation, table)
        q, k, v = layer.qkv(x).view(2, -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        out = oracle.attend(q, k, v, seen, bias).float().transpose(1, 2).flatten(2)
        want, got = layer.proj(out), layer(x)
        assert torch.allclose(got, want, atol=1e-5), (grid, window, dilation)
        with torch.no_grad():  # the other way it runs, without a graph
            assert torch.allclose(layer(x), want, atol=1e-5), (grid, window, dilation)
        weight = torch.randn(got.shape, generator=g)
        for a, b in zip(
            torch.autograd.grad((want * weight).sum(), (x, table)),
            torch.autograd.grad((got * weight).sum(), (x, layer.table)),
            strict=True,
        ):
            assert torch.allclose(a, b, atol=1e-4), (grid, window, dilation)


def biased(grid: Any, window: Any, dilation: Any, table: Tensor) -> Tensor:
    """The oracle's bias, with a gradient: it is written out of the table's places."""
    places = torch.arange(1, table[0].numel() + 1).view(1, *table.shape[1:]).double()
    index = oracle.relative(grid, window, dilation, places)[0].long()
    flat = torch.cat([torch.zeros(len(table), 1), table.flatten(1)], 1)
    return flat[:, index]


def test_it_is_dilated_attention_with_a_bias() -> None:
    check(
        lambda dim, heads, grid, window, dilation: NeighborhoodAttention(
            dim, heads, grid, window, dilation=dilation
        )
    )


@pytest.mark.parametrize(
    ("grid", "window", "dilation"), [((12,), 3, 4), ((8, 12), 2, (4, 3)), ((4, 6, 4), 2, (2, 3, 2))]
)
def test_dilation_is_attention_on_interleaved_grids(grid: Any, window: int, dilation: Any) -> None:
    """Each of the d^axes sub-grids by itself, without dilation, and put back between the others."""
    g = torch.Generator().manual_seed(0)
    steps = (dilation,) * len(grid) if isinstance(dilation, int) else dilation
    q, k, v = torch.randn(3, 2, 2, math.prod(grid), 8, generator=g)
    table = torch.randn(2, *(2 * window - 1 for _ in grid), generator=g)
    got = neighborhood_attention(q, k, v, Neighborhood(grid, window, dilation=dilation), table)
    want = torch.zeros_like(v).view(2, 2, *grid, 8)
    small = tuple(n // d for n, d in zip(grid, steps, strict=True))
    for phase in itertools.product(*map(range, steps)):
        at = (slice(None), slice(None))
        at += tuple(slice(p, None, d) for p, d in zip(phase, steps, strict=True))
        parts = (x.view(2, 2, *grid, 8)[at].reshape(2, 2, -1, 8) for x in (q, k, v))
        out = neighborhood_attention(*parts, Neighborhood(small, window), table)
        want[at] = out.view(2, 2, *small, 8)
    assert torch.allclose(got.view(want.shape), want, atol=1e-6)


def test_without_a_bias_it_is_the_engines() -> None:
    q, k, v = torch.randn(3, 1, 2, 80, 8, generator=torch.Generator().manual_seed(0))
    pattern = Neighborhood((8, 10), 3, dilation=2)
    plain = fv.attention(q, k, v, pattern=pattern).out
    assert torch.equal(neighborhood_attention(q, k, v, pattern), plain)
    nothing = torch.zeros(2, 5, 5)
    assert torch.allclose(neighborhood_attention(q, k, v, pattern, nothing), plain, atol=1e-6)


def test_gradients_of_the_bias() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 8, 2, generator=g, dtype=torch.float64)
    table = torch.randn(1, 3, 3, generator=g, dtype=torch.float64)
    given = [x.requires_grad_() for x in (q, k, v, table)]
    pattern = Neighborhood((2, 4), 2, dilation=(1, 2))
    assert torch.autograd.gradcheck(lambda *x: neighborhood_attention(*x[:3], pattern, x[3]), given)


# --- the stage


def reached(stage: DiNAT, token: int) -> Tensor:
    """Which tokens of the input one token of the output depends on, bool ``[tokens]``."""
    x = torch.randn(1, math.prod(stage.grid), stage.dim, requires_grad=True)
    (grad,) = torch.autograd.grad(stage(x)[0, token].sum(), x)
    return grad[0].abs().sum(-1) > 0


def test_the_receptive_field() -> None:
    """Four blocks: local ones reach 4 tokens each way; alternating ones cover 21 x 21."""
    torch.manual_seed(0)
    local = DiNAT(8, 2, (21, 21), 3, dilations=[1, 1, 1, 1])
    mixed = DiNAT(8, 2, (21, 21), 3, dilations=[1, 3, 7, 3])
    middle = 10 * 21 + 10
    seen = reached(local, middle).view(21, 21)
    want = torch.zeros(21, 21, dtype=torch.bool)
    want[6:15, 6:15] = True
    assert torch.equal(seen, want)
    assert bool(reached(mixed, middle).all())


def test_the_blocks_are_pre_norm_with_residuals() -> None:
    torch.manual_seed(0)
    stage = DiNAT(8, 2, (4, 6), 2, depth=3, mlp=2.0)
    assert [b.attention.pattern.dilation for b in stage.blocks] == [(1, 1), (2, 3), (1, 1)]
    x = torch.randn(2, 24, 8)
    want = x
    for block in stage.blocks:
        want = want + block.attention(block.norms[0](want))
        want = want + block.mlp(block.norms[1](want))
    assert torch.equal(stage(x), want)
    assert torch.equal(stage(x.view(2, 4, 6, 8)), want.view(2, 4, 6, 8))
    assert stage.blocks[0].mlp[0].out_features == 16


# --- bad input


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: DiNAT(8, 3, (4, 4), 2), "divide into heads=3"),
        (lambda: DiNAT(8, 2, (4, 4), 5), "larger than the grid"),
        (lambda: DiNAT(8, 2, (4, 4), 2, dilations=[1, 3]), "dilation of at most 2"),
        (lambda: DiNAT(8, 2, (4, 4), 2, dilations=[]), "one for each block"),
        (lambda: DiNAT(8, 2, (4, 4), 2, dilations=2), "one for each block"),
        (lambda: DiNAT(8, 2, (4, 4), 2, depth=0), "number of blocks"),
        (lambda: DiNAT(8, 2, (4, 4), 2, mlp=0.0), "factor greater than 0"),
        (lambda: DiNAT(8, 2, (4, 4), 2)(torch.randn(1, 15, 8)), r"\[1, 15, 8\].*\[batch, 16, 8\]"),
        (lambda: NeighborhoodAttention(8, 0, (4, 4), 2), "heads=0"),
        (lambda: NeighborhoodAttention(8, 2, (4, 4), 0), "at least 1"),
        (lambda: NeighborhoodAttention(8, 2, (4, 4), 2)(torch.randn(16, 8)), r"\[batch, 16, 8\]"),
        (lambda: tabled(tokens=15), "15 .* tokens and the grid of 4 x 4 has 16"),
        (lambda: tabled(table=torch.zeros(2, 3, 4)), r"\[2, 3, 4\]; \[2, 3, 3\]"),
    ],
)  # fmt: skip
def test_bad_input(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        call()


def tabled(tokens: int = 16, table: Tensor | None = None) -> Tensor:
    q = torch.randn(1, 2, tokens, 4)
    return neighborhood_attention(q, q, q, Neighborhood((4, 4), 2), table)
