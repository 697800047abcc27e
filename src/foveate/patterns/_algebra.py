"""What patterns combine to: ``&``, ``|``, ``~``; on some heads only; moved to other positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import FoveateError
from ._base import Pattern, joined

__all__ = ["And", "Everything", "Moved", "Not", "OnHeads", "Or"]


@dataclass(frozen=True)
class Everything(Pattern):
    """Every pair: what ``&`` leaves as it is."""

    everything = True

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        return torch.ones_like(q + k, dtype=torch.bool)


@dataclass(frozen=True)
class OneHead(Pattern):
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
        return joined((max(a, c), min(b, d)) for a, b in ours for c, d in theirs)

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
        return joined([*ours, *theirs])

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

    def fits(self, queries: int, keys: int, q_offset: int, causal: bool = True) -> None:
        by = self.by if isinstance(self.by, int) else int(self.by.max())
        self.of.fits(queries, keys + by, q_offset + by, causal)

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
        return joined((max(0, a - by), min(keys, b - by)) for a, b in ranges)

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
