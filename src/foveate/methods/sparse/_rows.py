"""Some rows of a call: which are real, and the program that computes those and no other."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...engine.pattern import Pattern
from ...engine.planner import Plan, plan
from ...engine.program import Gain, Program
from ...engine.shapes import Shapes
from ...engine.terms import hidden

__all__ = ["Plans", "Span", "of_rows", "spans"]


class Span(NamedTuple):
    """The real tokens of a batch item: its queries and keys, from the first to the last.

    ``item`` is None where one span serves the whole batch.
    """

    item: int | None
    rows: tuple[int, int]
    keys: tuple[int, int]


def _ends(seen: Tensor) -> list[tuple[int, int]]:
    """First and last True of each row of ``[B, n]``, half open; ``(0, 0)`` where there is none."""
    n = seen.shape[-1]
    first = seen.int().argmax(-1)
    last = n - seen.flip(-1).int().argmax(-1)
    some = seen.any(-1)
    pairs = torch.stack([first * some, last * some], -1)
    return [(int(a), int(b)) for a, b in pairs.tolist()]


def spans(program: Program, shapes: Shapes) -> list[Span]:
    """Where each batch item's real tokens are: what padding would make of a method by position.

    Keys that no query may see, before the first and after the last that one may, are padding; so
    are queries that the program says are no real ones, and those that come before every key.
    """
    B, Sq, Sk = shapes.B, shapes.Sq, shapes.Sk
    offset = Sk - Sq if program.q_offset is None else program.q_offset
    rows, keys = [(0, Sq)] * B, [(0, Sk)] * B
    if program.queries is not None:
        rows = _ends(program.queries.expand(B, Sq))
    if program.key_bias is not None:
        bias = program.key_bias
        bias = bias.reshape((1,) * (3 - bias.dim()) + tuple(bias.shape))
        keys = _ends((~hidden(bias)).any(1).expand(B, Sk))
    if program.causal:
        for b in range(B):
            (r0, r1), (k0, k1) = rows[b], keys[b]
            r0 = min(max(r0, k0 - offset), r1)  # before the first key a query sees nothing
            k1 = max(k0, min(k1, r1 + offset))  # after the last query a key is not seen
            rows[b], keys[b] = (r0, r1), (k0, k1)
    if len(set(rows)) == len(set(keys)) == 1:
        return [Span(None, rows[0], keys[0])]
    return [Span(b, rows[b], keys[b]) for b in range(B)]


@dataclass(frozen=True)
class RowsAt:
    """A pattern for rows that stand anywhere: row ``r`` of the call at ``places[r]``, ascending.

    Attributes
    ----------
    places : tuple of int
        Key indices.
    causal : bool
        Whether they see no later key.
    of : Pattern, optional
        What else restricts them, by their places.
    item : int, optional
        The batch item meant, where the pattern tells items apart.
    """

    places: tuple[int, ...]
    causal: bool
    of: Pattern | None = None
    item: int | None = None

    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Visibility of ``q_pos [m]`` by ``k_pos [n]``."""
        at = torch.tensor(self.places, device=q_pos.device)[q_pos]
        seen = torch.ones(1, dtype=torch.bool, device=q_pos.device).expand(len(at), len(k_pos))
        if self.causal:
            seen = k_pos <= at[:, None]
        if self.of is not None:
            own = self.of.tile(at, k_pos)
            if self.item is not None and own.dim() == 4 and own.shape[0] > 1:
                own = own[self.item : self.item + 1]
            seen = seen & own.to(seen.device)
        return seen

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        """The keys that these rows may reach."""
        first, last = self.places[q_start], self.places[min(q_stop, len(self.places)) - 1] + 1
        low, high = (0, keys) if self.of is None else self.of.key_range(first, last, keys)
        return low, max(low, min(high, last, keys)) if self.causal else high


def of_rows(program: Program, rows: range, item: int | None, shapes: Shapes) -> Program:
    """The program of some rows (of one batch item, or of all), for ``q[:, :, rows]``."""
    offset = shapes.Sk - shapes.Sq if program.q_offset is None else program.q_offset

    def picked(t: Tensor, dims: int, row_axis: int | None) -> Tensor:
        """``t`` broadcastable to ``dims`` axes, at the item and the rows."""
        if item is not None and t.dim() == dims and t.shape[0] > 1:
            t = t[item : item + 1]
        if row_axis is not None and -row_axis <= t.dim() and t.shape[row_axis] > 1:
            some = [slice(None)] * t.dim()
            some[row_axis] = slice(rows.start, rows.stop, rows.step)
            t = t[tuple(some)]
        return t

    def of_gain(gain: Gain) -> Gain:
        value = gain.value
        if isinstance(value, Tensor):
            value = picked(value, 3, -1)
        return replace(gain, value=value)

    regions = program.regions
    if item is not None:
        regions = {
            name: mask[item : item + 1] if mask.dim() > 1 and mask.shape[0] > 1 else mask
            for name, mask in program.regions.items()
        }
    if rows.step == 1 and program.pattern is None:
        pattern, causal, first = None, program.causal, rows.start + offset
    else:
        places = tuple(row + offset for row in rows)
        pattern = RowsAt(places, program.causal, program.pattern, item)
        causal, first = False, 0
        if pattern.of is None and not pattern.causal:
            pattern = None
    return program.evolve(
        causal=causal,
        q_offset=first,
        pattern=pattern,
        key_bias=None if program.key_bias is None else picked(program.key_bias, 3, None),
        bias=None if program.bias is None else picked(program.bias, 4, -2),
        score_terms=tuple(
            (picked(phi, 4, -2), picked(psi, 4, None)) for phi, psi in program.score_terms
        ),
        regions=regions,
        gains=tuple(map(of_gain, program.gains)),
        head_scale=None,
        queries=None if program.queries is None else picked(program.queries, 2, -1),
        reads=(),
    )


class Plans:
    """Plans of one forward, made once for all layers: programs of the same parts share one."""

    def __init__(self) -> None:
        self._made: dict[Any, tuple[Program, Plan]] = {}

    def of(
        self, program: Program, shapes: Shapes, rows: range | None = None, item: int | None = None
    ) -> Plan:
        """The plan of a program, or of some of its rows, for calls of ``shapes``."""
        parts = tuple(id(getattr(program, field.name)) for field in fields(program))
        key = parts, shapes, rows, item
        if key not in self._made:
            some = program if rows is None else of_rows(program, rows, item, shapes)
            of = shapes
            if rows is not None:
                of = replace(shapes, Sq=len(rows), B=shapes.B if item is None else 1)
            # the program is held with its plan: what names the entry must outlive it
            self._made[key] = program, plan(some, of)
        return self._made[key][1]
