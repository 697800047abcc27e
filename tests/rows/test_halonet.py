"""HaloNet: a block of queries sees itself and a halo, with relative positions; strided queries."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import foveate as fv
from foveate.layers import HaloAttention
from foveate.patterns import Halo

Make = Callable[..., HaloAttention]
# grid, block, halo
CASES = (
    ((4, 6), (2, 2), (1, 1)),
    ((4, 6), (2, 3), (1, 2)),
    ((4, 4), (4, 4), (0, 0)),  # one block: global
    ((4, 4), (2, 2), (0, 0)),  # no halo: blockwise
    ((4, 4), (2, 2), (3, 3)),  # a halo beyond the whole image
)


class Everywhere(HaloAttention):
    """Plain attention over all tokens, without positions."""

    def forward(self, x: Tensor, grid: Any = None) -> Tensor:
        B, S, dim = x.shape
        q = self.q(x).view(B, S, self.heads, -1).transpose(1, 2)
        kv = self.kv(x).view(B, S, self.heads, -1).transpose(1, 2)
        k, v = kv.split((self.head_dim, dim // self.heads), -1)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(B, S, dim))  # type: ignore[no-any-return]


def baseline(*args: Any, **kwargs: Any) -> HaloAttention:
    """Attention over all tokens, whatever was asked."""
    return Everywhere(*args, **kwargs)


def written_out(layer: HaloAttention, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pair by pair: ``scale * (q·k + q·r_rows + q·r_columns)`` on keys within the halo."""
    H, W = grid
    (b, c), (g, h) = layer.block, layer.halo
    D, heads = layer.head_dim, layer.heads
    q = layer.q(x).view(H, W, heads, D)
    kv = layer.kv(x).view(H, W, heads, -1)
    k, v = kv[..., :D], kv[..., D:]
    zero_y, zero_x = b + 2 * g - 1, c + 2 * h - 1  # a table counts from a window's first corner
    out = torch.zeros(H, W, heads, v.shape[-1], dtype=x.dtype)
    for i, j, head in itertools.product(range(H), range(W), range(heads)):
        top, left = i // b * b, j // c * c
        keys = [
            (y, z)
            for y, z in itertools.product(range(H), range(W))
            if top - g <= y < top + b + g and left - h <= z < left + c + h
        ]
        score = torch.stack([
            q[i, j, head] @ (
                k[y, z, head]
                + layer.height_rel[zero_y + (y - i) + g]
                + layer.width_rel[zero_x + (z - j) + h]
            )
            for y, z in keys
        ])  # fmt: skip
        p = (score * D**-0.5).softmax(0)
        out[i, j, head] = sum(p[n] * v[y, z, head] for n, (y, z) in enumerate(keys))
    return layer.proj(out.view(H * W, -1))  # type: ignore[no-any-return]


@torch.no_grad()
def check(make: Make) -> None:
    """Against the formula in float64, pair by pair; strided, it is that result subsampled."""
    for grid, block, halo in CASES:
        torch.manual_seed(0)
        layer = make(8, 2, block, halo, grid=grid, head_dim=3, bias=True).double()
        x = torch.randn(1, grid[0] * grid[1], 8, dtype=torch.float64)
        want = written_out(layer, x[0], grid)
        got = layer(x)
        assert got.shape == (1, *want.shape) and torch.allclose(got[0], want, atol=1e-10), grid
    torch.manual_seed(0)
    whole = make(8, 2, 4, 2, grid=(8, 4)).double()
    half = make(8, 2, 4, 2, grid=(8, 4), stride=2).double()
    half.load_state_dict(whole.state_dict())
    x = torch.randn(1, 32, 8, dtype=torch.float64)
    want = written_out(whole, x[0], (8, 4)).view(8, 4, 8)[::2, ::2].flatten(0, 1)
    got = half(x)
    assert got.shape == (1, *want.shape) and torch.allclose(got[0], want, atol=1e-10)


def test_it_is_the_papers_attention() -> None:
    check(HaloAttention)


@torch.no_grad()
def test_without_positions_it_is_attention_under_the_pattern() -> None:
    torch.manual_seed(0)
    layer = HaloAttention(16, 4, (2, 4), (1, 3), grid=(8, 12), bias=True)
    layer.height_rel.zero_()
    layer.width_rel.zero_()
    x = torch.randn(2, 96, 16)
    q = layer.q(x).view(2, 96, 4, 4).transpose(1, 2)
    k, v = layer.kv(x).view(2, 96, 4, 8).transpose(1, 2).split(4, -1)
    out = fv.attention(q, k, v, pattern=Halo((8, 12), (2, 4), (1, 3))).out
    assert torch.allclose(layer(x), layer.proj(out.transpose(1, 2).flatten(2)), atol=1e-5)
