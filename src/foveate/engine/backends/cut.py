"""Cutting a pattern: blocks of queries that lie together, each with the keys that any of them sees.

Never a mask of queries × keys: what is held is what is computed, and alike masks once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from ..pattern import Pattern
from .runs import Run, runs_of

SIZE = 128  # queries of a block
PAD = 32  # keys of a block are filled up to a multiple of this, so that blocks can be batched
KEPT = 64_000_000  # bytes of masks that a cut may hold


@dataclass(frozen=True, eq=False)
class Group:
    """Blocks of one size: ``N`` blocks of ``m`` queries on ``n`` keys.

    Attributes
    ----------
    rows : Tensor
        int64 ``[N, m]``.
    keys : Tensor
        int64 ``[N, n]``; hidden ones fill up.
    masks : Tensor
        Bool ``[U, m, n]``: the different masks.
    which : Tensor
        int64 ``[N]``: the mask of each block.
    """

    rows: Tensor
    keys: Tensor
    masks: Tensor
    which: Tensor

    @property
    def pairs(self) -> int:
        """Pairs computed."""
        return self.rows.numel() * self.keys.shape[1]

    @cached_property
    def row_runs(self) -> tuple[Run, ...] | None:
        """The rows as strided copies, where they are."""
        return runs_of(self.rows)

    @cached_property
    def key_runs(self) -> tuple[Run, ...] | None:
        """The keys as strided copies, where they are."""
        return runs_of(self.keys)

    @cached_property
    def open(self) -> tuple[bool, ...]:
        """Which of the masks hide nothing."""
        return tuple(self.masks.flatten(1).all(1).tolist())

    @cached_property
    def blind(self) -> tuple[bool, ...]:
        """Which of the masks leave a query nothing to see."""
        return tuple((~self.masks.any(2)).any(1).tolist())


@dataclass(frozen=True, eq=False)
class Part:
    """What some heads of a batch item see.

    Attributes
    ----------
    item : int or None
        One batch item; None for all.
    heads : tuple of int, or None
        Query heads; None for all.
    groups : tuple of Group, or None
        They hold every query once. None where no pattern restricts these heads.
    """

    item: int | None
    heads: tuple[int, ...] | None
    groups: tuple[Group, ...] | None


@dataclass(frozen=True, eq=False)
class Cut:
    """A pattern cut for calls of one size: its parts, and how a call without one is masked."""

    parts: tuple[Part, ...]
    Sq: int
    Sk: int
    causal: bool
    q_offset: int

    @property
    def pairs(self) -> float:
        """Pairs computed of one head, on average."""
        weights = [1 if p.heads is None else len(p.heads) for p in self.parts]
        return sum(
            weight * self._pairs(part) for weight, part in zip(weights, self.parts, strict=True)
        ) / sum(weights)

    def _pairs(self, part: Part) -> int:
        if part.groups is not None:
            return sum(g.pairs for g in part.groups)
        if not self.causal:
            return self.Sq * self.Sk
        first, last = self.q_offset + 1, self.q_offset + self.Sq  # keys of the first and last row
        rows = torch.arange(first, last + 1).clamp(0, self.Sk)
        return int(rows.sum())


def cut(pattern: Pattern, causal: bool, q_offset: int, Sq: int, Sk: int) -> Cut | None:
    """Cut a pattern; None where its masks would take too much memory."""
    size = causal, q_offset, Sq, Sk
    on: Callable[[int, int], Pattern] | None = getattr(pattern, "on", None)
    items, heads = getattr(pattern, "items", None), getattr(pattern, "heads", None)
    if on is None or (items is None and heads is None):
        parts = _parts(pattern, *size)
    else:
        parts = []
        for item in range(items or 1):
            alike: dict[Pattern, list[int]] = {}
            for head in range(heads or 1):
                alike.setdefault(on(item, head), []).append(head)
            for one, mine in alike.items():
                of = _parts(one, *size)
                if of is None or any(p.item is not None or p.heads is not None for p in of):
                    return None
                which = None if heads is None else tuple(mine)
                at = None if items is None else item
                parts += [Part(at, which, p.groups) for p in of]
    if parts is None or all(part.groups is None for part in parts):
        return None
    return Cut(tuple(parts), Sq, Sk, causal, q_offset)


def _parts(pattern: Pattern, causal: bool, q_offset: int, Sq: int, Sk: int) -> list[Part] | None:
    if getattr(pattern, "everything", False):
        return [Part(None, None, None)]
    if not _is_value(pattern):  # it may say otherwise next time, or never come again
        return _cut(pattern, causal, q_offset, Sq, Sk)
    name: Any = pattern
    return _cached(name, causal, q_offset, Sq, Sk)


def _is_value(thing: Any) -> bool:
    """Whether equal things are the same for good: plain values, and frozen patterns of these."""
    if thing is None or isinstance(thing, int | float | str):
        return True
    if isinstance(thing, tuple):
        return all(map(_is_value, thing))
    how = getattr(thing, "__dataclass_params__", None)
    if how is None or not (how.frozen and how.eq):
        return False
    compared = {field.name for field in fields(thing) if field.compare}
    others = set(vars(thing)) - {field.name for field in fields(thing)} - {"heads", "items"}
    return not others and all(_is_value(getattr(thing, name)) for name in compared)


@lru_cache(maxsize=32)
def _cached(pattern: Any, causal: bool, q_offset: int, Sq: int, Sk: int) -> list[Part] | None:
    with torch.inference_mode(False):  # a later call may need gradients
        return _cut(pattern, causal, q_offset, Sq, Sk)


def _blocks(pattern: Pattern, Sq: int, q_offset: int) -> list[Tensor]:
    """The queries of each block."""
    tiling = getattr(pattern, "tiling", None)
    tiles: Tensor | None = None if tiling is None else tiling(SIZE, Sq, q_offset)
    return list(torch.arange(Sq).split(SIZE)) if tiles is None else list(tiles)


def _ranges(pattern: Pattern, rows: Tensor, keys: int) -> list[tuple[int, int]]:
    several: Callable[..., Any] | None = getattr(pattern, "key_ranges", None)
    start, stop = int(rows.min()), int(rows.max()) + 1
    return [pattern.key_range(start, stop, keys)] if several is None else several(start, stop, keys)


def _cut(pattern: Pattern, causal: bool, q_offset: int, Sq: int, Sk: int) -> list[Part] | None:
    cuts: dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]] = {}
    lead, held = (1, 1), 0
    for rows in _blocks(pattern, Sq, q_offset):
        positions = rows + q_offset
        ranges = _ranges(pattern, positions, Sk)
        seen = torch.cat([torch.arange(a, b) for a, b in ranges] or [rows[:0]])
        tile = pattern.tile(positions, seen)
        if causal:
            tile = tile & (seen <= positions[:, None])
        tile = tile.reshape((1,) * (4 - tile.dim()) + tuple(tile.shape))
        tile = tile.expand(*tile.shape[:2], len(rows), len(seen))
        lead = max(lead[0], tile.shape[0]), max(lead[1], tile.shape[1])
        for b in range(tile.shape[0]):
            for h in range(tile.shape[1]):
                some = tile[b, h].any(0)
                part = rows, seen[some], tile[b, h][:, some]
                cuts.setdefault((b, h), []).append(part)
                held += part[2].numel()
                if held > KEPT:
                    return None
    if any((b, h) not in cuts for b in range(lead[0]) for h in range(lead[1])):
        return None  # told apart in some blocks only
    parts = []
    for (b, h), blocks in cuts.items():
        item, heads = (b if lead[0] > 1 else None), ((h,) if lead[1] > 1 else None)
        parts.append(Part(item, heads, tuple(_grouped(blocks, Sk))))
    return parts


def _grouped(blocks: list[tuple[Tensor, Tensor, Tensor]], Sk: int) -> list[Group]:
    """Blocks of equal size together; equal masks once."""
    sizes: dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]] = {}
    for rows, keys, mask in blocks:
        n = max(PAD, -(-len(keys) // PAD) * PAD)
        fill = n - len(keys)
        # Filled up by other keys in their order: one run, where one key repeated were many.
        padded = torch.cat([keys, torch.arange(fill).clamp(max=Sk - 1)])
        mask = torch.nn.functional.pad(mask, (0, fill))
        sizes.setdefault((len(rows), n), []).append((rows, padded, mask))
    groups = []
    for alike in sizes.values():
        known: dict[bytes, int] = {}
        masks: list[Tensor] = []
        which: list[int] = []
        for _, _, mask in alike:
            name = mask.numpy().tobytes()
            if name not in known:
                known[name] = len(masks)
                masks.append(mask)
            which.append(known[name])
        rows, keys = torch.stack([r for r, _, _ in alike]), torch.stack([k for _, k, _ in alike])
        groups.append(Group(rows, keys, torch.stack(masks), torch.tensor(which)))
    return groups
