"""How many tiles of keys a kernel touches: what a pattern saves at best, for given tile shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..errors import FoveateError
from ._base import Pattern, whole
from .grid import _OnGrid
from .neighborhood import Neighborhood

__all__ = ["Tiles", "tiles_touched"]


@dataclass(frozen=True)
class Tiles:
    """Pairs of a query tile and a key tile.

    Attributes
    ----------
    touched : int
        Those with at least one visible pair: what a kernel computes that skips the others.
    full : int
        Those of the touched ones in which every pair is visible: no mask is needed there.
    dense : int
        Those that attention of all to all computes with tiles of this size.
    """

    touched: int
    full: int
    dense: int

    @property
    def share(self) -> float:
        """``touched / dense``."""
        return self.touched / self.dense

    @property
    def speedup(self) -> float:
        """``dense / touched``: the most that a kernel with these tiles can gain."""
        return self.dense / self.touched if self.touched else math.inf

    @property
    def perfect(self) -> bool:
        """Whether no tile needs a mask: what is computed is what is seen."""
        return self.full == self.touched


def tiles_touched(
    pattern: Pattern,
    q_tile: int | Sequence[int],
    kv_tile: int | Sequence[int],
    tokens: int | None = None,
    *,
    dynamic: bool = False,
) -> Tiles:
    """Count the key/value tiles that a kernel with tiles of these shapes visits.

    The idea of GNA's simulator: a window saves what its tiles save, not what its pairs save. With
    tiles of several axes (``q_tile=(8, 8)``) the tokens are taken as boxes of the grid; with a
    number, as runs of consecutive tokens (of a grid: of its row-major order). The axes of a
    :class:`Neighborhood` are counted one by one and multiplied: any size takes milliseconds; with
    dilation the tiles lie in the interleaved grids, as in NATTEN. Other patterns are looked at
    tile by tile.

    Parameters
    ----------
    pattern : Pattern
    q_tile, kv_tile : int or sequence of int
        Both numbers, or both one number for each axis of a grid pattern. The last tile of an axis
        may be cut short; it counts whole.
    tokens : int, optional
        How many, of patterns that are not on a grid; queries and keys alike.
    dynamic : bool
        Where key tiles begin. False: at multiples of their size. True: at the first key that the
        query tile sees, and they run up to the last (along each axis), so that a window need not
        be aligned with them, as in NATTEN's first fused kernels.

    Returns
    -------
    Tiles
        Summed over the heads that the pattern tells apart.

    Raises
    ------
    FoveateError
        Tiles of other axes than the grid's; no number of tokens, or another than the grid's.

    Notes
    -----
    NATTEN's own simulator is described in the paper (section on NATTENSim) but not released; this
    is written from its definition. Where window and stride are multiples of the tiles, ``dynamic``
    gives exactly ``window / length`` of the dense count; tiles that stand still do so if
    ``(window - stride) / 2`` is a multiple of the key tile too.

    References
    ----------
    Hassani et al., "Generalized Neighborhood Attention", 2025.

    Examples
    --------
    >>> from foveate.patterns import Neighborhood, tiles_touched
    >>> tiles_touched(Neighborhood((30, 48, 80), (18, 24, 24)), (4, 8, 8), (2, 8, 8)).speedup
    5.2...
    >>> hopping = Neighborhood((30, 48, 80), (18, 24, 24), stride=(16, 8, 8))
    >>> tiles_touched(hopping, (4, 8, 8), (2, 8, 8)).speedup
    11.1...
    """
    if not isinstance(pattern, Pattern):
        raise FoveateError(
            f"tiles_touched takes a pattern, such as Neighborhood((32, 32), 7); "
            f"{type(pattern).__name__} was given."
        )
    q_sides, k_sides = _sides("q_tile", q_tile), _sides("kv_tile", kv_tile)
    grid = _grid(pattern, q_sides, k_sides, tokens)
    if isinstance(pattern, Neighborhood) and grid == pattern.grid:
        axes = [
            _along(pattern, axis, a, b, dynamic)
            for axis, (a, b) in enumerate(zip(q_sides, k_sides, strict=True))
        ]
        touched, full = (math.prod(column) for column in zip(*axes, strict=True))
        heads = 1
    else:
        heads = pattern.heads or 1
        touched, full = _looked_at(pattern, grid, q_sides, k_sides, dynamic)
    tiles = (
        -(-n // side) for sides in (q_sides, k_sides) for n, side in zip(grid, sides, strict=True)
    )
    return Tiles(touched, full, heads * math.prod(tiles))


def _along(
    pattern: Neighborhood, axis: int, q_side: int, k_side: int, dynamic: bool
) -> tuple[int, int]:
    """Touched and full pairs of tiles along one axis, over its interleaved grids."""
    side, d = pattern.grid[axis], pattern.dilation[axis]
    touched = full = 0
    for phase in range(d):
        first, last = pattern.span(axis, torch.arange(phase, side, d))
        first, last = first // d, last // d  # places in this one of the interleaved grids
        n = len(first)
        for start in range(0, n, q_side):
            here = slice(start, start + q_side)
            low, high = int(first[here].min()), int(last[here].max())  # what any query sees
            inner, outer = int(first[here].max()), int(last[here].min())  # what all see
            begin = low if dynamic else low // k_side * k_side
            for at in range(begin, high + 1, k_side):
                touched += 1
                full += at >= inner and min(at + k_side, n) - 1 <= outer
    return touched, full


def _looked_at(
    pattern: Pattern, grid: tuple[int, ...], q_sides: tuple[int, ...], k_sides: tuple[int, ...],
    dynamic: bool,
) -> tuple[int, int]:  # fmt: skip
    """The same by looking at every pair, a tile of queries at a time."""
    keys = torch.arange(math.prod(grid))
    counts = _strides(torch.tensor(grid))[:, None]
    at = (
        torch.div(keys, counts, rounding_mode="floor") % torch.tensor(grid)[:, None]
    )  # [axes, keys]
    size = torch.tensor(k_sides)[:, None]
    heads = () if pattern.heads is None else (pattern.heads,)
    touched = full = 0
    for rows in _boxes(grid, q_sides):
        tile = pattern.tile(rows, keys).expand(*heads, len(rows), len(keys))
        for seen in tile.reshape(-1, len(rows), len(keys)):
            any_ = seen.any(0)
            if not bool(any_.any()):
                continue
            low = at[:, any_].amin(1, keepdim=True) if dynamic else torch.zeros_like(size)
            box = torch.div(at - low, size, rounding_mode="floor")
            count = box[:, any_].amax(1) + 1
            inside = ((box >= 0) & (box < count[:, None])).all(0)
            name = (box * _strides(count)[:, None]).sum(0)[inside]
            pairs = torch.bincount(name, weights=seen.sum(0)[inside].double())
            most = torch.bincount(name) * len(rows)
            touched += int(count.prod()) if dynamic else int((pairs > 0).sum())
            full += int(((pairs == most) & (most > 0)).sum())
    return touched, full


def _strides(count: Tensor) -> Tensor:
    """Of a row-major array of these sides."""
    return torch.cat([count[1:].flip(0).cumprod(0).flip(0), count.new_ones(1)])


def _boxes(grid: tuple[int, ...], sides: tuple[int, ...]) -> Iterator[Tensor]:
    """The tokens of each box of a grid."""
    index = torch.arange(math.prod(grid)).view(grid)
    pieces = [range(0, n, side) for n, side in zip(grid, sides, strict=True)]
    for starts in product(*pieces):
        box = tuple(slice(a, a + side) for a, side in zip(starts, sides, strict=True))
        yield index[box].flatten()


def _sides(name: str, given: Any) -> tuple[int, ...]:
    values = (given,) if isinstance(given, int) else given
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise FoveateError(
            f"tiles_touched({name}={given!r}): the tile's size was wanted, a number of tokens or "
            "one for each of the grid's axes."
        )
    return tuple(whole("tiles_touched", name, value) for value in values)


def _grid(
    pattern: Pattern, q_sides: tuple[int, ...], k_sides: tuple[int, ...], tokens: int | None
) -> tuple[int, ...]:
    """What the tiles lie on: the pattern's grid, or a row of tokens."""
    grid = pattern.grid if isinstance(pattern, _OnGrid) else None
    axes = {1} if grid is None else {1, len(grid)}
    if len(q_sides) != len(k_sides) or len(q_sides) not in axes:
        on = "tokens in a row" if grid is None else f"a grid of {len(grid)} axes"
        raise FoveateError(
            f"tiles_touched(q_tile={q_sides}, kv_tile={k_sides}): the pattern is on {on}; give two "
            f"numbers{'' if len(axes) == 1 else ', or two tuples of a number for each axis'}."
        )
    if grid is not None and tokens is not None and tokens != math.prod(grid):
        raise FoveateError(
            f"tiles_touched(tokens={tokens!r}): the pattern's grid has {math.prod(grid)} tokens; "
            "leave tokens= out."
        )
    if grid is None and tokens is None:
        raise FoveateError(
            f"tiles_touched: {pattern!r} is for any number of tokens; give tokens=, how many."
        )
    if grid is not None and len(q_sides) == len(grid):
        return grid
    return (whole("tiles_touched", "tokens", tokens if grid is None else math.prod(grid)),)
