"""Neighbourhood attention with a relative position bias, dilated and not (DiNA), as a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.attention import attention
from ..errors import FoveateError
from ..patterns import Neighborhood
from ._projections import check_heads, merge_heads, split_heads

__all__ = ["NeighborhoodAttention", "neighborhood_attention"]

_QUERIES = 128  # of a tile
_NUMBERS = 4_000_000  # scores computed at once


def neighborhood_attention(
    q: Tensor, k: Tensor, v: Tensor, pattern: Neighborhood, table: Tensor | None = None
) -> Tensor:
    """Attention under a neighbourhood, with a relative position bias.

    Without a table this is ``attention(q, k, v, pattern=pattern)``. With one, tiles of queries that
    lie together attend to the keys they see; the bias of a tile depends on where it lies relative
    to its keys only, so that a grid of any size needs a few of them (nine, of two axes), never
    tokens × tokens. Where a gradient is wanted the tiles are computed again in the backward pass.

    Parameters
    ----------
    q, k, v : Tensor
        ``[B, H, tokens, D]``, all alike but for the values' size.
    pattern : Neighborhood
    table : Tensor, optional
        ``[H, 2 * window - 1, …]``, one axis for each of the grid's: what is added to the scores of
        a key that stands ``index - (window - 1)`` steps of the dilation from the query.

    Returns
    -------
    Tensor
        ``[B, H, tokens, Dv]``; differentiable in all four tensors.

    Raises
    ------
    FoveateError
        Another number of tokens than the grid has, or a table of another shape.
    """
    if q.shape[2] != pattern.tokens or k.shape[2] != pattern.tokens:
        raise FoveateError(
            f"q has {q.shape[2]} and k {k.shape[2]} tokens and the grid of "
            f"{' x '.join(map(str, pattern.grid))} has {pattern.tokens}; give the grid that the "
            "tokens lie on."
        )
    if table is None:
        return attention(q, k, v, pattern=pattern).out
    wanted = q.shape[1], *(2 * w - 1 for w in pattern.window)
    if tuple(table.shape) != wanted:
        raise FoveateError(f"the table is {list(table.shape)}; {list(wanted)} was wanted.")
    flat = table.to(q.dtype).flatten(1)
    flat = torch.cat([flat, flat.new_full((len(flat), 1), -math.inf)], 1)  # the last: hidden
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, table))
    outs, order = [], []
    for rows, keys, steps in _tiles(pattern):
        size = q.shape[0] * q.shape[1] * steps.numel()
        for some in range(0, len(rows), max(1, _NUMBERS // size)):
            part = slice(some, some + max(1, _NUMBERS // size))
            given = (q, k, v, flat, rows[part], keys[part], steps)
            outs.append(_Again.apply(*given) if learns else _attend(*given))
            order.append(rows[part].flatten())
    back = torch.cat(order).argsort().to(q.device)
    return torch.cat(outs, 2).index_select(2, back)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, flat: Tensor, rows: Tensor, keys: Tensor, steps: Tensor
) -> Tensor:
    """Tiles alike: ``rows [N,m]``, ``keys [N,n]``, ``steps [m,n]`` → ``[B,H,N * m,Dv]``."""
    bias = flat[:, steps.to(q.device)]

    def taken(x: Tensor, index: Tensor) -> Tensor:
        picked = x.index_select(2, index.flatten().to(x.device))
        return picked.unflatten(2, tuple(index.shape)).transpose(1, 2).flatten(0, 1)

    out = nn.functional.scaled_dot_product_attention(
        taken(q, rows), taken(k, keys), taken(v, keys), attn_mask=bias[None]
    )
    return out.unflatten(0, (len(q), len(rows))).transpose(1, 2).flatten(2, 3)


class _Again(torch.autograd.Function):
    """:func:`_attend`, which keeps its inputs alone and is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        ctx.save_for_backward(*given)
        return _attend(*given)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        given = [
            x.detach().requires_grad_(needs)
            for x, needs in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        with torch.enable_grad():
            out = _attend(*given)
        found = iter(torch.autograd.grad(out, [x for x in given if x.requires_grad], grad))
        return tuple(next(found) if needs else None for needs in wanted)


@lru_cache(maxsize=16)
def _tiles(pattern: Neighborhood) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Tiles of queries and their keys, those with the same bias together.

    Returns
    -------
    list of (rows, keys, steps)
        ``rows [N,m]`` and ``keys [N,n]`` are tokens; ``steps [m,n]`` is the place in the table, or
        the table's size where a key is hidden.
    """
    tiles = pattern.tiling(_QUERIES, pattern.tokens, 0)
    blocks = torch.arange(pattern.tokens).split(_QUERIES) if tiles is None else tiles
    hidden = math.prod(2 * w - 1 for w in pattern.window)
    alike: dict[Any, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for rows in blocks:
        low, high = pattern.key_range(int(rows.min()), int(rows.max()) + 1, pattern.tokens)
        near = torch.arange(low, high)
        seen = pattern.tile(rows, near)
        some = seen.any(0)
        keys, seen = near[some], seen[:, some]
        steps = torch.zeros_like(seen, dtype=torch.long)
        at = pattern.coordinates(rows), pattern.coordinates(keys)
        for i, j, w, d in zip(*at, pattern.window, pattern.dilation, strict=True):
            off = torch.div(j[None] - i[:, None], d, rounding_mode="floor") + w - 1
            steps = steps * (2 * w - 1) + off
        steps = torch.where(seen, steps, hidden)
        name = (*steps.shape, steps.to(torch.int32).numpy().tobytes())
        alike.setdefault(name, []).append((rows, keys, steps))
    return [
        (torch.stack([r for r, _, _ in one]), torch.stack([k for _, k, _ in one]), one[0][2])
        for one in alike.values()
    ]


class NeighborhoodAttention(nn.Module):
    """Multi-head self-attention of tokens on a grid to their neighbourhoods (NA; dilated: DiNA).

    Parameters
    ----------
    dim : int
        A multiple of ``heads``.
    heads : int
    grid, window, stride, dilation, causal
        As of :class:`~foveate.patterns.Neighborhood`.
    position_bias : bool
        A learned bias for each head and relative position, ``[heads, 2 * window - 1, …]``, in steps
        of the dilation; from a truncated normal of deviation 0.02. NATTEN refuses one on a causal
        axis; here it is a table of which that axis uses one half.
    bias : bool
        Of the projection to q, k and v. That of the output always has one, as in NATTEN.

    Raises
    ------
    FoveateError
        Sizes that do not fit.

    References
    ----------
    Hassani and Shi, "Dilated Neighborhood Attention Transformer", 2022, section 3; the module of
    NATTEN 0.17 (the last with position biases in all its kernels).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        grid: Sequence[int],
        window: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        causal: bool | Sequence[bool] = False,
        position_bias: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.pattern = Neighborhood(grid, window, stride, dilation, causal)
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim)
        self.table: nn.Parameter | None = None
        if position_bias:
            sides = (2 * w - 1 for w in self.pattern.window)
            self.table = nn.Parameter(torch.empty(heads, *sides))
            nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, tokens, dim] -> [B, tokens, dim]``; ``[B, *grid, dim]`` likewise."""
        flat = on_grid(x, self.pattern.grid, self.proj.in_features)
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(flat).chunk(3, -1))
        out = neighborhood_attention(q, k, v, self.pattern, self.table)
        return self.proj(merge_heads(out)).view(x.shape)


def on_grid(x: Tensor, grid: tuple[int, ...], dim: int) -> Tensor:
    """``[B, tokens, dim]`` of tokens in a row or on their grid."""
    tokens = math.prod(grid)
    if tuple(x.shape[1:]) not in ((tokens, dim), (*grid, dim)):
        raise FoveateError(
            f"x is {list(x.shape)}; [batch, {tokens}, {dim}] or "
            f"[batch, {', '.join(map(str, grid))}, {dim}] was wanted (tokens of the grid in "
            "row-major order)."
        )
    return x.reshape(len(x), tokens, dim)
