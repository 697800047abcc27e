"""Patterns: who may look at whom, as values that combine with ``&``, ``|`` and ``~``.

A pattern is a predicate on pairs of positions. It is asked about tiles, never about the whole
matrix; :meth:`Pattern.mask` writes the matrix out where it is small enough to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import FoveateError

if TYPE_CHECKING:
    from .cost import Cost
    from .machine import Machine
    from .plot import Picture

__all__ = ["And", "Everything", "Moved", "Not", "OnHeads", "Or", "Pattern"]

_ROWS = 1024  # queries looked at together where the whole of a pattern is counted


class Pattern:
    """Who may look at whom: the base of all patterns.

    A subclass says :meth:`sees`; where it can, :meth:`key_range` and :attr:`heads` too. Positions
    are key indices of a call (query row ``r`` of a call stands at ``r + q_offset``), or, attached
    to a live model, absolute token positions counted from the first token that is no padding.

    Attributes
    ----------
    heads : int or None
        How many heads it tells apart; None where all see the same.
    items : int or None
        How many batch items it tells apart.
    """

    heads: int | None = None
    items: int | None = None
    routed = False

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        """Whether positions ``q`` see positions ``k``: int64 tensors that broadcast → bool.

        ``head`` counts the query heads; None where :attr:`heads` is None.
        """
        raise NotImplementedError

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        """A half-open range of keys outside which queries ``q_start … q_stop - 1`` see nothing."""
        return 0, keys

    def key_ranges(self, q_start: int, q_stop: int, keys: int) -> list[tuple[int, int]]:
        """The same in several ranges, ascending and apart: what lies between is not looked at."""
        return [self.key_range(q_start, q_stop, keys)]

    def tiling(self, size: int, queries: int, q_offset: int) -> Tensor | None:
        """Which queries to take together, int64 ``[blocks, about size]``; None: as they come."""
        return None

    def on(self, item: int, head: int) -> Pattern:
        """What one head of one batch item sees: a pattern that tells nothing apart."""
        return self if self.heads is None else _OneHead(self, head)

    def moved(self, by: int | Tensor) -> Pattern:
        """The same with ``by`` (int, or int64 ``[B]``) added to a call's positions."""
        return Moved(self, by)

    def route(self, q: Tensor, k: Tensor, **call: Any) -> Pattern:
        """The pattern of one call: itself, where it does not look at the content."""
        return self

    # -- the engine's protocol -------------------------------------------------------------------
    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Visibility of ``q_pos [m]`` by ``k_pos [n]``: bool ``[m, n]``, or ``[heads, m, n]``."""
        head = None
        if self.heads is not None:
            head = torch.arange(self.heads, device=q_pos.device)[:, None, None]
        return self.sees(q_pos[:, None], k_pos[None, :], head)

    def visible(self, batch: Tensor, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """The same for one pair, as FlexAttention asks."""
        return self.sees(q_pos, k_pos, head)

    # -- composing -------------------------------------------------------------------------------
    def __and__(self, other: object) -> Pattern:
        return And(self, _pattern(other, "&"))

    def __or__(self, other: object) -> Pattern:
        return Or(self, _pattern(other, "|"))

    def __invert__(self) -> Pattern:
        return Not(self)

    # -- looking at it ---------------------------------------------------------------------------
    def mask(self, Sq: int, Sk: int | None = None, q_offset: int | None = None) -> Tensor:
        """The whole matrix, True where a key is seen: bool ``[Sq, Sk]`` or ``[heads, Sq, Sk]``.

        ``Sk`` defaults to ``Sq`` and ``q_offset`` to ``Sk - Sq`` (last query on last key).
        """
        Sq, Sk, offset = sizes(Sq, Sk, q_offset)
        return self.tile(torch.arange(Sq) + offset, torch.arange(Sk)).expand(
            *(() if self.heads is None else (self.heads,)), Sq, Sk
        )

    def density(self, Sq: int, Sk: int | None = None, q_offset: int | None = None) -> float:
        """The share of the ``Sq × Sk`` pairs that is seen (a causal triangle has about a half)."""
        Sq, Sk, offset = sizes(Sq, Sk, q_offset)
        seen = 0
        for start in range(0, Sq, _ROWS):
            stop = min(start + _ROWS, Sq)
            low, high = self.key_range(start + offset, stop + offset, Sk)
            if low < high:
                seen += int(
                    self.tile(torch.arange(start, stop) + offset, torch.arange(low, high)).sum()
                )
        return seen / (Sq * Sk * (self.heads or 1))

    def blocks(
        self, size: int, Sq: int, Sk: int | None = None, q_offset: int | None = None
    ) -> Tensor:
        """Blocks of ``size × size`` pairs: 0 nothing is seen, 1 a part, 2 everything.

        int8 ``[ceil(Sq / size), ceil(Sk / size)]``, with the heads in front where they differ.
        """
        Sq, Sk, offset = sizes(Sq, Sk, q_offset)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise FoveateError(f"blocks(size) takes a whole number of at least 1; {size!r} given.")
        columns = -(-Sk // size)
        rows = []
        for start in range(0, Sq, size):
            stop = min(start + size, Sq)
            tile = self.tile(torch.arange(start, stop) + offset, torch.arange(Sk))
            tile = tile.expand(*tile.shape[:-2], stop - start, Sk)
            missing = columns * size - Sk
            some = torch.nn.functional.pad(tile, (0, missing)).unflatten(-1, (columns, size))
            every = torch.nn.functional.pad(tile, (0, missing), value=True)
            full = every.unflatten(-1, (columns, size)).all(-1).all(-2)
            rows.append(some.any(-1).any(-2).to(torch.int8) + full.to(torch.int8))
        return torch.stack(rows, -2)

    # -- elsewhere -------------------------------------------------------------------------------
    def mask_mod(self, q_offset: int = 0) -> Callable[..., Tensor]:
        """The pattern as a mask function of torch's FlexAttention.

        ``(batch, head, q_idx, kv_idx) -> bool``, all scalar index tensors; ``q_offset`` is the key
        index of query 0. For ``create_block_mask``, or to combine with mask functions of others.

        Examples
        --------
        >>> import foveate as fv
        >>> from torch.nn.attention.flex_attention import create_block_mask
        >>> window = fv.SlidingWindow(256, sinks=4).mask_mod()
        >>> create_block_mask(window, None, None, 4096, 4096, device="cpu").sparsity() > 80
        True
        """
        from .flex import mask_mod

        return mask_mod(self, q_offset)

    def block_mask(
        self, Sq: int, Sk: int | None = None, q_offset: int | None = None, device: Any = "cpu"
    ) -> Any:
        """The pattern as torch's ``BlockMask`` of blocks of 128 × 128, for ``flex_attention``.

        Made tile by tile: the matrix, which torch's ``create_block_mask`` holds, is never there.
        Sizes as in :meth:`mask`; one head axis where the heads differ, else for any number.
        """
        from .flex import block_mask

        return block_mask(self, *sizes(Sq, Sk, q_offset), device)

    def plot(
        self,
        Sq: int | None = None,
        Sk: int | None = None,
        q_offset: int | None = None,
        *,
        grid: Sequence[int] | None = None,
        query: Any = None,
    ) -> Picture:
        """A picture: the matrix of who sees whom, or on a grid what single tokens see.

        Parameters
        ----------
        Sq, Sk, q_offset : int, optional
            As in :meth:`mask`; ``Sq`` defaults to a length at which the pattern shows what it is,
            on a grid to the grid's tokens. Long sequences are drawn in cells of several pairs.
        grid : sequence of int, optional
            Sides of the grid to draw on; default: the pattern's own, where it has one.
        query : int, tuple of int, or a list of these, optional
            Tokens of the grid whose keys are drawn; default: a corner, the middle, an edge.

        Returns
        -------
        Picture
            Shown by a notebook; ``.save("pattern.svg")`` (or ``.html``) writes it, ``.svg`` is it.

        Raises
        ------
        FoveateError
            Sizes that are no numbers of tokens, or a query that is not on the grid.
        """
        from .plot import plot

        return plot(self, Sq, Sk, q_offset, grid, query)

    def cost(
        self,
        Sq: int,
        Sk: int | None = None,
        q_offset: int | None = None,
        *,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_dim: int = 64,
        dtype: torch.dtype = torch.float32,
        causal: bool = True,
        threads: int | None = None,
        machine: Machine | None = None,
    ) -> Cost:
        """Predict what attention under the pattern takes, against dense attention; nothing runs.

        Parameters
        ----------
        Sq, Sk, q_offset : int
            As in :meth:`mask`.
        heads, kv_heads, head_dim : int
            Default: the heads that the pattern tells apart, or 8; as many keys; 64 features.
        causal : bool
            Whether the call is causal: dense attention is then the triangle.
        threads : int, optional
            Default: as many as torch uses.
        machine : Machine, optional
            The machine's constants; default: those that ``foveate.patterns.calibrate`` kept, or
            documented ones.

        Returns
        -------
        Cost
            ``.seconds``, ``.dense_seconds``, ``.speedup``, ``.pairs``, ``.share``, ``.parts``; to
            print. What is done once a pattern and size (cutting it) is not in it.

        Raises
        ------
        FoveateError
            What is no size, head count, dtype or machine; heads that do not fit the pattern's.

        Examples
        --------
        >>> import foveate as fv
        >>> cost = fv.SlidingWindow(256, sinks=4).cost(8192, heads=9, threads=2)
        >>> cost.speedup > 2, cost.by
        (True, 'blocks')
        """
        from .cost import cost

        return cost(
            *(self, *sizes(Sq, Sk, q_offset)),
            **{"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "dtype": dtype},
            **{"causal": causal, "threads": threads, "on": machine},
        )

    def _repr_html_(self) -> str | None:
        try:
            return self.plot().svg
        except (FoveateError, NotImplementedError):  # what is chosen by content has no one picture
            return None


def sizes(Sq: Any, Sk: Any, q_offset: Any) -> tuple[int, int, int]:
    """Checked sizes, with what is left out filled in."""
    Sk = Sq if Sk is None else Sk
    for name, value in (("Sq", Sq), ("Sk", Sk)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise FoveateError(
                f"{name}={value!r} was given; a number of tokens (at least 1) was wanted."
            )
    offset = Sk - Sq if q_offset is None else q_offset
    if not isinstance(offset, int) or isinstance(offset, bool):
        raise FoveateError(
            f"q_offset={q_offset!r} was given; the key index of query 0 was wanted, a whole number."
        )
    return Sq, Sk, offset


def whole(who: str, name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise FoveateError(
            f"{who}({name}={value!r}): a whole number of at least {least} was wanted."
        )
    return value


def several(who: str, name: str, given: Any, wanted: str) -> tuple[int, ...]:
    """Whole numbers of at least 1, one or more."""
    values = () if isinstance(given, int | str) else tuple(given)
    if not values:
        raise FoveateError(f"{who}({name}={given!r}): {wanted} was wanted.")
    return tuple(whole(who, name, value) for value in values)


def _pattern(other: object, operator: str) -> Pattern:
    if not isinstance(other, Pattern):
        raise FoveateError(
            f"A pattern {operator} a {type(other).__name__} was given; patterns combine with "
            "patterns: fv.SlidingWindow(256) | fv.patterns.Dilated(64, 16)."
        )
    return other


@dataclass(frozen=True)
class Everything(Pattern):
    """Every pair: what ``&`` leaves as it is."""

    everything = True

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        return torch.ones_like(q + k, dtype=torch.bool)


@dataclass(frozen=True)
class _OneHead(Pattern):
    """What one head sees of a pattern that tells heads apart."""

    of: Pattern
    head: int

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        return self.of.sees(q, k, torch.tensor(self.head, device=q.device))

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        return self.of.key_range(q_start, q_stop, keys)

    def key_ranges(self, q_start: int, q_stop: int, keys: int) -> list[tuple[int, int]]:
        return self.of.key_ranges(q_start, q_stop, keys)

    def tiling(self, size: int, queries: int, q_offset: int) -> Tensor | None:
        return self.of.tiling(size, queries, q_offset)


def _heads(*patterns: Pattern) -> int | None:
    told = {p.heads for p in patterns if p.heads is not None}
    if len(told) > 1:
        raise FoveateError(
            f"Patterns of {' and '.join(map(str, sorted(told)))} heads cannot be combined: give "
            "them as many heads."
        )
    return told.pop() if told else None


@dataclass(frozen=True)
class _Two(Pattern):
    left: Pattern
    right: Pattern

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", _heads(self.left, self.right))
        items = {p.items for p in (self.left, self.right) if p.items is not None}
        object.__setattr__(self, "items", max(items, default=None))

    def tiling(self, size: int, queries: int, q_offset: int) -> Tensor | None:
        found = (p.tiling(size, queries, q_offset) for p in (self.left, self.right))
        return next((tiles for tiles in found if tiles is not None), None)

    @property
    def routed(self) -> bool:  # type: ignore[override]
        return self.left.routed or self.right.routed

    def route(self, q: Tensor, k: Tensor, **call: Any) -> Pattern:
        return type(self)(self.left.route(q, k, **call), self.right.route(q, k, **call))

    def moved(self, by: int | Tensor) -> Pattern:
        return type(self)(self.left.moved(by), self.right.moved(by))

    def _seen(self, q: Tensor, k: Tensor, head: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.left.sees(q, k, head), self.right.sees(q, k, head)


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, those that touch made one."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if low >= high:
            continue
        if found and low <= found[-1][1]:
            found[-1] = found[-1][0], max(high, found[-1][1])
        else:
            found.append((low, high))
    return found


class And(_Two):
    """Pairs that both patterns see."""

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        a, b = self._seen(q, k, head)
        return a & b

    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return self.left.tile(q_pos, k_pos) & self.right.tile(q_pos, k_pos)

    def on(self, item: int, head: int) -> Pattern:
        a, b = self.left.on(item, head), self.right.on(item, head)
        if isinstance(a, Everything):
            return b
        return a if isinstance(b, Everything) else And(a, b)

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        (a, b), (c, d) = (p.key_range(q_start, q_stop, keys) for p in (self.left, self.right))
        low = max(a, c)
        return low, max(low, min(b, d))

    def key_ranges(self, q_start: int, q_stop: int, keys: int) -> list[tuple[int, int]]:
        ours, theirs = (p.key_ranges(q_start, q_stop, keys) for p in (self.left, self.right))
        return _joined((max(a, c), min(b, d)) for a, b in ours for c, d in theirs)

    def __repr__(self) -> str:
        return f"({self.left!r} & {self.right!r})"


class Or(_Two):
    """Pairs that one of two patterns sees."""

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        a, b = self._seen(q, k, head)
        return a | b

    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return self.left.tile(q_pos, k_pos) | self.right.tile(q_pos, k_pos)

    def on(self, item: int, head: int) -> Pattern:
        a, b = self.left.on(item, head), self.right.on(item, head)
        if isinstance(a, Everything) or isinstance(b, Everything):
            return Everything()
        return Or(a, b)

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        ranges = [p.key_range(q_start, q_stop, keys) for p in (self.left, self.right)]
        ranges = [(a, b) for a, b in ranges if a < b]
        return (min(a for a, _ in ranges), max(b for _, b in ranges)) if ranges else (0, 0)

    def key_ranges(self, q_start: int, q_stop: int, keys: int) -> list[tuple[int, int]]:
        ours, theirs = (p.key_ranges(q_start, q_stop, keys) for p in (self.left, self.right))
        return _joined([*ours, *theirs])

    def __repr__(self) -> str:
        return f"({self.left!r} | {self.right!r})"


@dataclass(frozen=True)
class Not(Pattern):
    """Pairs that a pattern does not see."""

    of: Pattern

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", self.of.heads)
        object.__setattr__(self, "items", self.of.items)

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        return ~self.of.sees(q, k, head)

    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return ~self.of.tile(q_pos, k_pos)

    @property
    def routed(self) -> bool:  # type: ignore[override]
        return self.of.routed

    def route(self, q: Tensor, k: Tensor, **call: Any) -> Pattern:
        return Not(self.of.route(q, k, **call))

    def moved(self, by: int | Tensor) -> Pattern:
        return Not(self.of.moved(by))

    def on(self, item: int, head: int) -> Pattern:
        return Not(self.of.on(item, head))

    def __invert__(self) -> Pattern:
        return self.of

    def __repr__(self) -> str:
        return f"~{self.of!r}"


@dataclass(frozen=True)
class OnHeads(Pattern):
    """A pattern on some of ``count`` heads; the others see everything."""

    of: Pattern
    which: tuple[int, ...]
    count: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", self.count)
        object.__setattr__(self, "items", self.of.items)

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        assert head is not None
        here = head == self.which[0]
        for one in self.which[1:]:
            here = here | (head == one)
        return self.of.sees(q, k, head) | ~here

    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        others = torch.ones(self.count, 1, 1, dtype=torch.bool, device=q_pos.device)
        others[list(self.which)] = False
        return self.of.tile(q_pos, k_pos) | others

    @property
    def routed(self) -> bool:  # type: ignore[override]
        return self.of.routed

    def route(self, q: Tensor, k: Tensor, **call: Any) -> Pattern:
        return OnHeads(self.of.route(q, k, **call), self.which, self.count)

    def moved(self, by: int | Tensor) -> Pattern:
        return OnHeads(self.of.moved(by), self.which, self.count)

    def on(self, item: int, head: int) -> Pattern:
        return self.of.on(item, head) if head in self.which else Everything()


@dataclass(frozen=True)
class Moved(Pattern):
    """A pattern whose position 0 stands elsewhere: one place for all rows of a batch, or each its.

    ``by`` is what is added to a call's positions: an int, or int64 ``[B]``.
    """

    of: Pattern
    by: int | Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", self.of.heads)
        items = self.of.items if isinstance(self.by, int) else len(self.by)
        object.__setattr__(self, "items", items)

    def on(self, item: int, head: int) -> Pattern:
        by = self.by if isinstance(self.by, int) else int(self.by[item])
        of = self.of.on(item, head)
        return Moved(of, by) if by and not isinstance(of, Everything) else of

    def _rows(self) -> Tensor | int:
        return self.by if isinstance(self.by, int) else self.by[:, None, None, None]

    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        by = self._rows()
        by = by if isinstance(by, int) else by.to(q_pos.device)
        head = None
        if self.heads is not None:
            head = torch.arange(self.heads, device=q_pos.device)[:, None, None]
        return self._sees(q_pos[:, None] + by, k_pos[None, :] + by, head)

    def _sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        return self.of.sees(q, k, head) & (k >= 0)  # what is before position 0 is padding

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        assert isinstance(self.by, int)
        return self._sees(q + self.by, k + self.by, head)

    def visible(self, batch: Tensor, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        by = self.by if isinstance(self.by, int) else self.by[batch]
        return self._sees(q_pos + by, k_pos + by, head)

    def key_ranges(self, q_start: int, q_stop: int, keys: int) -> list[tuple[int, int]]:
        if not isinstance(self.by, int):
            return [self.key_range(q_start, q_stop, keys)]
        by = self.by
        ranges = self.of.key_ranges(q_start + by, q_stop + by, keys + by)
        return _joined((max(0, a - by), min(keys, b - by)) for a, b in ranges)

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        if isinstance(self.by, int):
            moves = [self.by]
        else:
            moves = self.by.tolist()  # all: ranges that go by documents do not follow the extremes
        lows, highs = [], []
        for by in dict.fromkeys(moves):
            low, high = self.of.key_range(q_start + by, q_stop + by, keys + by)
            lows.append(min(max(0, low - by), keys))
            highs.append(min(max(0, high - by), keys))
        return min(lows), max(highs)
