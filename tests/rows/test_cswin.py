"""CSWin: half of the heads in rows, half in columns, a convolution of the values as position."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from foveate.catalog.experiments.cswin import KINDS, reach
from foveate.layers import CrossShapedWindowAttention
from foveate.patterns import CrossShaped

Make = Callable[..., CrossShapedWindowAttention]


class Everywhere(CrossShapedWindowAttention):
    """Plain attention over all tokens."""

    def forward(self, x: Tensor, grid: Any = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def baseline(*args: Any, **kwargs: Any) -> CrossShapedWindowAttention:
    """Global attention, whatever the stripes."""
    return Everywhere(*args, **kwargs)


def written_out(layer: CrossShapedWindowAttention, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Token by token: softmax over the stripe, and 3 × 3 neighbours of the value within it."""
    (H, W), s, heads, dim = grid, layer.stripe, layer.heads, layer.dim
    D = dim // heads
    q, k, v = layer.qkv(x).view(H, W, 3, dim).unbind(2)
    assert layer.lepe.bias is not None
    kernel = layer.lepe.weight[:, 0]
    out = torch.zeros(H, W, dim, dtype=x.dtype)
    for i, j, head in itertools.product(range(H), range(W), range(heads)):
        part = slice(head * D, (head + 1) * D)
        at = (lambda y, z: y // s) if head < heads // 2 else (lambda y, z: z // s)
        keys = [(y, z) for y in range(H) for z in range(W) if at(y, z) == at(i, j)]
        score = torch.stack([q[i, j, part] @ k[y, z, part] for y, z in keys]) * D**-0.5
        p = score.softmax(0)
        near = layer.lepe.bias[part] + sum(
            kernel[part, y - i + 1, z - j + 1] * v[y, z, part]
            for y, z in keys
            if abs(y - i) <= 1 and abs(z - j) <= 1
        )
        out[i, j, part] = near + sum(p[n] * v[y, z, part] for n, (y, z) in enumerate(keys))
    return layer.proj(out.view(H * W, dim))  # type: ignore[no-any-return]


@torch.no_grad()
def check(make: Make) -> None:
    """Against the formula in float64, token by token: axes, stripes, the whole image."""
    for grid, stripe in (((4, 6), 1), ((4, 6), 2), ((4, 4), 4)):
        torch.manual_seed(0)
        layer = make(12, 4, stripe, grid=grid).double()
        x = torch.randn(1, grid[0] * grid[1], 12, dtype=torch.float64)
        assert torch.allclose(layer(x)[0], written_out(layer, x[0], grid), atol=1e-10), stripe


def test_it_is_the_papers_attention() -> None:
    check(CrossShapedWindowAttention)


@pytest.mark.parametrize(("grid", "stripe"), [((8, 12), 2), ((8, 8), 8), ((8, 12), 1)])
@torch.no_grad()
def test_without_lepe_it_is_attention_under_the_pattern(grid: tuple[int, int], stripe: int) -> None:
    torch.manual_seed(0)
    layer = CrossShapedWindowAttention(16, 4, stripe, grid=grid)
    layer.lepe.weight.zero_()
    assert layer.lepe.bias is not None
    layer.lepe.bias.zero_()
    S = grid[0] * grid[1]
    x = torch.randn(2, S, 16)
    q, k, v = layer.qkv(x).view(2, S, 3, 4, 4).permute(2, 0, 3, 1, 4)
    pattern = CrossShaped(grid, stripe, heads=4)
    out = fv.attention(q, k, v, pattern=pattern).out
    assert torch.allclose(layer(x), layer.proj(out.transpose(1, 2).flatten(2)), atol=1e-5)
    if stripe == 8:  # as wide as the image: global
        assert bool(pattern.mask(S).all())


def test_two_layers_reach_every_pixel() -> None:
    for stripe in ("stripes", "stripes of 1"):
        assert reach(KINDS[stripe], 2) == 1.0
    # one layer sees a row and a column of stripes, less what they share
    assert reach(KINDS["stripes"], 1) == (16 + 16 - 4) / 64
    assert reach(KINDS["windows"], 1) == 16 / 64
    assert reach(KINDS["windows"], 2) < 1.0
