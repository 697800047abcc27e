"""Generalized neighbourhood attention: a window that slides, or hops, over a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from .._implements import implements
from ..errors import FoveateError
from ._base import whole
from .grid import _OnGrid

__all__ = ["Neighborhood"]


@implements("gna", "fna", basis="paper")
@dataclass(frozen=True, init=False)
class Neighborhood(_OnGrid):
    """Neighbourhood attention on a grid, with stride, dilation and causality per axis.

    Along each axis a token sees ``window`` tokens around it, pushed inward at the borders so that
    there are always as many; an even window has one token more on the left. With ``dilation`` d
    they are d apart: each of the d interleaved grids is attended by itself, with its own borders.
    ``stride`` consecutive tokens (of one of the interleaved grids) share the window of the one in
    their middle, the right one of two, or of the grid's last token where the group is cut short:
    1 is a sliding window, ``stride == window`` non-overlapping blocks. A causal axis is seen up to
    the token itself, and ``window`` counts back from the last token of its group, so that the
    first tokens of a group see fewer.

    ``fv.attention(q, k, v, pattern=Neighborhood(…))`` runs it fused: queries that lie together on
    the grid (and in one interleaved grid) are taken as a tile, the keys any of them sees are
    gathered, and no weights are stored (:func:`tiles_touched` counts what tiles of other shapes
    would touch).

    Parameters
    ----------
    grid : sequence of int
        Sides of one to three axes; tokens in row-major order.
    window, stride, dilation : int or sequence of int
        Per axis, or one for all. ``window * dilation`` must fit into the side, and ``stride`` into
        ``window``.
    causal : bool or sequence of bool

    Raises
    ------
    FoveateError
        What does not fit the grid. A call with more tokens than the grid has is refused too, and
        one of fewer that neither it nor the pattern makes causal; a causal one of fewer holds the
        grid's first tokens, as in generation, and sees no others.

    References
    ----------
    Hassani et al., "Generalized Neighborhood Attention", 2025, and "Faster Neighborhood Attention",
    2024. Borders as in NATTEN 0.21 (its reference mask and its Flex backend, which agree). Its
    additional keys, tokens beside the grid that all see, are not part of this.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> from foveate.patterns import Neighborhood, tiles_touched
    >>> q, k, v = torch.randn(3, 1, 2, 32 * 32, 16)
    >>> sliding, hopping = Neighborhood((32, 32), 16), Neighborhood((32, 32), 16, stride=8)
    >>> fv.attention(q, k, v, pattern=hopping).out.shape
    torch.Size([1, 2, 1024, 16])
    >>> [tiles_touched(pattern, (8, 8), (4, 4)).speedup for pattern in (sliding, hopping)]
    [2.56, 4.0]
    """

    grid: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    causal: tuple[bool, ...]

    def __init__(
        self,
        grid: Sequence[int],
        window: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        causal: bool | Sequence[bool] = False,
    ) -> None:
        self._set_grid("Neighborhood", grid)
        axes = len(self.grid)
        for name, value in (("window", window), ("stride", stride), ("dilation", dilation)):
            object.__setattr__(self, name, _each(name, value, axes))
        causals = (causal,) * axes if isinstance(causal, bool) else causal
        if not (
            isinstance(causals, Sequence)
            and len(causals) == axes
            and all(isinstance(c, bool) for c in causals)
        ):
            raise FoveateError(
                f"Neighborhood(causal={causal!r}): True or False was wanted, or one for each of "
                f"the grid's {axes} axes."
            )
        object.__setattr__(self, "causal", tuple(causals))
        for axis, (side, w, s, d) in enumerate(
            zip(self.grid, self.window, self.stride, self.dilation, strict=True)
        ):
            if w > side:
                raise FoveateError(
                    f"Neighborhood(window={window!r}): a window of {w} is larger than the grid's "
                    f"side of {side} (axis {axis}); give at most {side}."
                )
            if w * d > side:
                raise FoveateError(
                    f"Neighborhood(dilation={dilation!r}): a window of {w} with dilation {d} spans "
                    f"{w * d} tokens and the grid's side is {side} (axis {axis}); with this window "
                    f"a dilation of at most {side // w} fits."
                )
            if s > w:
                raise FoveateError(
                    f"Neighborhood(stride={stride!r}): a stride of {s} is larger than the window "
                    f"of {w} (axis {axis}): tokens would see windows that they are not in. Give "
                    f"at most {w}."
                )

    # -- the definition --------------------------------------------------------------------------
    def span(self, axis: int, at: Tensor) -> tuple[Tensor, Tensor]:
        """First and last coordinate seen along an axis by tokens at ``at``: int64, any shape.

        Between them every ``dilation``-th is seen.
        """
        side, w, s, d = (x[axis] for x in (self.grid, self.window, self.stride, self.dilation))
        phase, place = at % d, at // d
        length = (side - phase + d - 1) // d  # tokens of this one of the interleaved grids
        group = place // s * s
        if self.causal[axis]:
            leader = torch.minimum(group + s - 1, length - 1)
            return (leader - w + 1).clamp(min=0) * d + phase, at
        leader = torch.minimum(group + s // 2, length - 1)
        first = torch.minimum((leader - w // 2).clamp(min=0), length - w)
        return first * d + phase, (first + w - 1) * d + phase

    def _along(self, axis: int, i: Tensor, j: Tensor) -> Tensor:
        """Visibility along one axis."""
        first, last = self.span(axis, i)
        seen = (j >= first) & (j <= last)
        d = self.dilation[axis]
        return seen if d == 1 else seen & (i % d == j % d)

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        seen = self._inside(q, k)
        for axis, (i, j) in enumerate(zip(self.coordinates(q), self.coordinates(k), strict=True)):
            seen = seen & self._along(axis, i, j)
        return seen

    # -- for the executor ------------------------------------------------------------------------
    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Visibility of ``q_pos [m]`` by ``k_pos [n]``: bool ``[m, n]``."""
        self._refuse_beyond(q_pos, k_pos)
        row = self.tokens // self.grid[0]
        n = len(k_pos)
        low = int(k_pos[0]) if n else 0
        if not n or low % row or n % row or bool((k_pos[1:] - k_pos[:-1] != 1).any()):
            return super().tile(q_pos, k_pos)
        # Whole rows of keys: an outer product of what is seen along the axes.
        here = k_pos.device
        seen = torch.ones(len(q_pos), 1, dtype=torch.bool, device=here)
        for axis, i in enumerate(self.coordinates(q_pos)):
            start, count = (low // row, n // row) if axis == 0 else (0, self.grid[axis])
            along = self._along(axis, i[:, None], start + torch.arange(count, device=here))
            seen = (seen[:, :, None] & along[:, None]).flatten(1)
        return seen

    def _refuse_beyond(self, *positions: Tensor) -> None:
        most = max((int(p.max()) for p in positions if p.numel()), default=0)
        if most >= self.tokens:
            raise FoveateError(
                f"{self!r}: a grid of {' x '.join(map(str, self.grid))} holds {self.tokens} tokens "
                f"and the call has more (position {most}); give the grid that the tokens lie on, "
                "and leave out tokens without a place on it."
            )

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        low, high = (min(max(0, row), self.grid[0] - 1) for row in self._rows(q_start, q_stop))
        first, last = _spans(self, 0)
        d = self.dilation[0]  # windows move on along each of the interleaved grids
        lowest = min(first[low : min(low + d, high + 1)])
        return self._range(lowest, max(last[max(low, high - d + 1) : high + 1]), keys)

    def tiling(self, size: int, queries: int, q_offset: int) -> Tensor | None:
        """Queries that lie together in one of the interleaved grids, int64 ``[blocks, m]``.

        None where the call does not hold the whole grid, or no tile of a good size divides it.
        """
        if queries != self.tokens or q_offset != 0:
            return None
        apart, block = self._apart(), self.tile_sides(size)
        if math.prod(block) * 4 < min(size, self.tokens // math.prod(apart)):
            return None
        shape = [
            n
            for side, p, b in zip(self.grid, apart, block, strict=True)
            for n in (side // p // b, b, p)
        ]
        last = len(shape)
        axes = [*range(2, last, 3), *range(0, last, 3), *range(1, last, 3)]
        index = torch.arange(self.tokens).view(shape).permute(axes)
        return index.reshape(-1, math.prod(block))

    def _apart(self) -> list[int]:
        """How many interleaved grids each axis is taken apart into: what divides the side."""
        return [d if n % d == 0 else 1 for n, d in zip(self.grid, self.dilation, strict=True)]

    def tile_sides(self, size: int = 128) -> tuple[int, ...]:
        """Sides of the tiles it is cut into: about ``size`` queries that see the fewest keys."""
        reach: list[dict[int, int]] = []
        for axis, (side, p) in enumerate(zip(self.grid, self._apart(), strict=True)):
            first, last = self.span(axis, torch.arange(side))
            n = side // p
            reach.append({})
            for b in (b for b in range(1, min(n, size) + 1) if n % b == 0):
                low = first.view(n // b, b, p).amin(1)
                high = last.view(n // b, b, p).amax(1)
                reach[-1][b] = int((high - low).max()) // p + 1
        fits = [block for block in product(*reach) if math.prod(block) <= size]
        most = max(map(math.prod, fits))
        large = [block for block in fits if 2 * math.prod(block) > min(size, most)]

        def keys(block: tuple[int, ...]) -> int:
            return math.prod(by[b] for by, b in zip(reach, block, strict=True))

        return min(large, key=lambda b: (keys(b) / math.prod(b), keys(b), b[::-1]))


@lru_cache(maxsize=32)
def _spans(pattern: Neighborhood, axis: int) -> tuple[list[int], list[int]]:
    """First and last coordinate seen along an axis from every coordinate."""
    first, last = pattern.span(axis, torch.arange(pattern.grid[axis]))
    return first.tolist(), last.tolist()


def _each(name: str, given: Any, axes: int) -> tuple[int, ...]:
    """One number an axis; one for all axes is repeated."""
    values = (given,) * axes if isinstance(given, int) else given
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != axes:
        raise FoveateError(
            f"Neighborhood({name}={given!r}): a whole number was wanted, or one for each of the "
            f"grid's {axes} axes."
        )
    return tuple(whole("Neighborhood", name, value) for value in values)
