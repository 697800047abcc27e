"""Patterns on grids: tokens that lie in rows and columns (and frames), in row-major order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import FoveateError
from ._base import Pattern, whole

__all__ = ["CrossShaped", "Halo", "Windows"]


def _axes(who: str, name: str, given: Any, axes: int, least: int = 1) -> tuple[int, ...]:
    """One number an axis; one for all axes is repeated."""
    values = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    values = (given,) * axes if isinstance(given, int) else values
    if len(values) != axes:
        raise FoveateError(
            f"{who}({name}={given!r}): one number for each of the grid's {axes} axes was wanted."
        )
    return tuple(whole(who, name, value, least) for value in values)


class _OnGrid(Pattern):
    """The base of grid patterns: tokens past the grid are an error where positions are known."""

    grid: tuple[int, ...]

    def _set_grid(self, who: str, grid: Any) -> None:
        if not isinstance(grid, Sequence) or isinstance(grid, str) or not 1 <= len(grid) <= 3:
            raise FoveateError(
                f"{who}(grid={grid!r}): the grid's sides were wanted, such as (16, 16), of one to "
                "three axes."
            )
        sides = tuple(whole(who, "grid", side) for side in grid)
        object.__setattr__(self, "grid", sides)

    @property
    def tokens(self) -> int:
        """How many tokens the grid has."""
        return math.prod(self.grid)

    def fits(self, queries: int, keys: int, q_offset: int, causal: bool = True) -> None:
        """Raise where a call holds more than the grid, or, not causal, fewer tokens of its own.

        A causal call of fewer holds the grid's first tokens, as in generation; so does any call
        under a pattern that is causal along an axis, one of one query, or of fewer queries than
        keys.
        """
        most = max(keys, queries + q_offset)
        whole_call = 1 < queries == keys and not causal and not any(getattr(self, "causal", ()))
        if most > self.tokens or (whole_call and most < self.tokens):
            raise FoveateError(
                f"{type(self).__name__}: a grid of {' × '.join(map(str, self.grid))} has "
                f"{self.tokens} tokens and the call {most}; give the grid of the call's tokens "
                "(without class tokens or padding)"
                + (", or causal=True where they are its first." if most < self.tokens else ".")
            )

    def coordinates(self, position: Tensor) -> list[Tensor]:
        """Coordinates of positions, one tensor an axis."""
        found = []
        for side in reversed(self.grid):
            found.append(position % side)
            position = torch.div(position, side, rounding_mode="floor")
        return found[::-1]

    def _inside(self, q: Tensor, k: Tensor) -> Tensor:
        return (q >= 0) & (q < self.tokens) & (k >= 0) & (k < self.tokens)

    def tiling(self, size: int, queries: int, q_offset: int) -> Tensor | None:
        """Queries that lie together on the grid, int64 ``[blocks, queries of a block]``.

        None where the call does not hold the whole grid.
        """
        if queries != self.tokens or q_offset != 0:
            return None
        sides = [1] * len(self.grid)
        while True:  # double the shortest side that can be doubled
            can = [
                axis
                for axis, side in enumerate(self.grid)
                if side % (2 * sides[axis]) == 0 and 2 * math.prod(sides) <= size
            ]
            if not can:
                break
            sides[min(can, key=lambda axis: sides[axis])] *= 2
        if math.prod(sides) * 4 < size:  # sides that do not halve
            return None
        index = torch.arange(self.tokens)
        shape = [
            n for side, part in zip(self.grid, sides, strict=True) for n in (side // part, part)
        ]
        axes = [*range(0, len(shape), 2), *range(1, len(shape), 2)]
        return index.view(shape).permute(axes).reshape(-1, math.prod(sides))

    def _rows(self, q_start: int, q_stop: int) -> tuple[int, int]:
        """The first axis' coordinates of a range of positions."""
        row = self.tokens // self.grid[0]
        return q_start // row, (max(q_stop, 1) - 1) // row

    def _range(self, first: int, last: int, keys: int) -> tuple[int, int]:
        """The positions of the first axis' coordinates ``first … last``."""
        row = self.tokens // self.grid[0]
        low = min(max(0, first) * row, keys)
        return low, max(low, min(keys, (last + 1) * row))


@dataclass(frozen=True, init=False)
class Halo(_OnGrid):
    """Blocked local attention: the tokens of a block see the block and a halo around it.

    Parameters
    ----------
    grid : sequence of int
    block : int or sequence of int
        Sides of a block; they must divide the grid's.
    halo : int or sequence of int
        How far beyond the block is seen; outside the grid there is nothing to see.

    References
    ----------
    Vaswani et al., "Scaling Local Self-Attention for Parameter Efficient Visual Backbones", 2021,
    section 2.2. As a layer: :class:`foveate.layers.HaloAttention`.
    """

    grid: tuple[int, ...]
    block: tuple[int, ...]
    halo: tuple[int, ...]

    def __init__(
        self, grid: Sequence[int], block: int | Sequence[int], halo: int | Sequence[int]
    ) -> None:
        self._set_grid("Halo", grid)
        object.__setattr__(self, "block", _axes("Halo", "block", block, len(self.grid)))
        object.__setattr__(self, "halo", _axes("Halo", "halo", halo, len(self.grid), least=0))
        _divides("Halo", "block", self.block, self.grid)

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        seen = self._inside(q, k)
        for b, h, i, j in zip(
            self.block, self.halo, self.coordinates(q), self.coordinates(k), strict=True
        ):
            start = i // b * b
            seen = seen & (j >= start - h) & (j < start + b + h)
        return seen

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        low, high = self._rows(q_start, q_stop)
        b, h = self.block[0], self.halo[0]
        last = min(high // b * b + b - 1 + h, self.grid[0] - 1)
        return self._range(low // b * b - h, last, keys)


@dataclass(frozen=True, init=False)
class Windows(_OnGrid):
    """Non-overlapping windows, shifted or not, as in Swin.

    Parameters
    ----------
    grid : sequence of int
    window : int or sequence of int
        Sides of a window; they must divide the grid's.
    shift : int or sequence of int
        By how much the windows are rolled. What lies in one rolled window but not in one piece of
        the grid does not see each other. (Swin's code leaves the shift out where one window is the
        whole grid; here what is asked for is done.)

    References
    ----------
    Liu et al., "Swin Transformer", 2021, sections 3.2 (shifted windows, masked cyclic shift). As a
    layer: :class:`foveate.layers.WindowAttention`.
    """

    grid: tuple[int, ...]
    window: tuple[int, ...]
    shift: tuple[int, ...]

    def __init__(
        self, grid: Sequence[int], window: int | Sequence[int], shift: int | Sequence[int] = 0
    ) -> None:
        self._set_grid("Windows", grid)
        object.__setattr__(self, "window", _axes("Windows", "window", window, len(self.grid)))
        object.__setattr__(self, "shift", _axes("Windows", "shift", shift, len(self.grid), 0))
        _divides("Windows", "window", self.window, self.grid)
        for w, s in zip(self.window, self.shift, strict=True):
            if s >= w:
                raise FoveateError(
                    f"Windows(shift={shift!r}): a shift smaller than the window ({w}) was wanted."
                )

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        seen = self._inside(q, k)
        for w, s, i, j in zip(
            self.window, self.shift, self.coordinates(q), self.coordinates(k), strict=True
        ):
            # counted from the shifted origin the pieces before it are a window of their own
            seen = seen & (
                torch.div(i - s, w, rounding_mode="floor")
                == torch.div(j - s, w, rounding_mode="floor")
            )
        return seen

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        low, high = self._rows(q_start, q_stop)
        w, s = self.window[0], self.shift[0]
        last = (high - s) // w * w + s + w - 1
        return self._range((low - s) // w * w + s, min(last, self.grid[0] - 1), keys)


@dataclass(frozen=True, init=False)
class CrossShaped(_OnGrid):
    """Stripes: half of the heads see horizontal ones, the other half vertical ones.

    Parameters
    ----------
    grid : (int, int)
    stripe : int
        Their width; it must divide both sides.
    heads : int
        Even: the first half sees rows, the second columns, as in the paper; in its authors' code
        it is the other way round.

    References
    ----------
    Dong et al., "CSWin Transformer", 2021, section 3.2, equation 4. As a layer:
    :class:`foveate.layers.CrossShapedWindowAttention`.
    """

    grid: tuple[int, ...]
    stripe: int
    heads: int | None  # a field: what differs in it is not equal

    def __init__(self, grid: Sequence[int], stripe: int, heads: int) -> None:
        self._set_grid("CrossShaped", grid)
        if len(self.grid) != 2:
            raise FoveateError(f"CrossShaped(grid={grid!r}): a grid of two axes was wanted.")
        object.__setattr__(self, "stripe", whole("CrossShaped", "stripe", stripe))
        _divides("CrossShaped", "stripe", (stripe, stripe), self.grid)
        if whole("CrossShaped", "heads", heads) % 2:
            raise FoveateError(
                f"CrossShaped(heads={heads}): an even number was wanted, half for each direction."
            )
        object.__setattr__(self, "heads", heads)

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        assert head is not None and self.heads is not None
        (qy, qx), (ky, kx) = self.coordinates(q), self.coordinates(k)
        rows, columns = (
            qy // self.stripe == ky // self.stripe,
            qx // self.stripe == kx // self.stripe,
        )
        lying = head < self.heads // 2
        return self._inside(q, k) & ((rows & lying) | (columns & ~lying))

    def on(self, item: int, head: int) -> Pattern:
        assert self.heads is not None
        (high, wide), stripe = self.grid, self.stripe
        return Windows(self.grid, (stripe, wide) if head < self.heads // 2 else (high, stripe))


def _divides(who: str, name: str, parts: tuple[int, ...], grid: tuple[int, ...]) -> None:
    for part, side in zip(parts, grid, strict=True):
        if side % part:
            raise FoveateError(
                f"{who}: a {name} of {part} does not divide the grid's side of {side}; pad the "
                f"grid to {-(-side // part) * part}, or choose another {name}."
            )
