"""Who sees whom, for FlexAttention: which blocks are visible in whole, which in part, and how.

A mask has four possible parts: causality, hidden keys, a dense bool mask and a pattern. Whether a
block is visible (in whole) is what its parts say together; a block that they only together hide
counts as visible in part, which costs a block and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..pattern import Pattern
from ..shapes import Shapes
from ..terms import Terms, hidden

BLOCK = 128  # queries and keys of a block, as torch's kernels like it


@dataclass(frozen=True)
class Mask:
    """A mask as FlexAttention takes it.

    Attributes
    ----------
    visible : callable
        ``(batch, head, query, key) -> bool``, all scalar tensors of indices.
    some, whole : Tensor
        Bool ``[B|1, Hq|1, query blocks, key blocks]``: visible at all (or at least not known to be
        hidden), visible in whole.
    kind : tuple
        What of it makes another kernel.
    """

    visible: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    some: Tensor
    whole: Tensor
    kind: tuple[Any, ...]


def at(t: Tensor) -> Callable[..., Tensor]:
    """Read ``t`` (four axes) at ``(b, h, i, j)``; an axis of size 1 is the same everywhere."""
    axes = tuple(n for n, size in enumerate(t.shape) if size > 1)
    flat = t.reshape([t.shape[n] for n in axes]).contiguous()
    if not axes:
        return lambda *index: flat
    return lambda *index: flat[tuple(index[n] for n in axes)]


def axes_of(t: Tensor) -> tuple[bool, ...]:
    """Along which axes ``t`` varies."""
    return tuple(size > 1 for size in t.shape)


def mask_of(terms: Terms, shapes: Shapes) -> Mask | None:
    """The mask of a call; None where every key is visible to every query."""
    parts: list[Callable[..., Tensor]] = []
    blocks: list[tuple[Tensor, Tensor]] = []
    kind: list[Any] = []
    device = shapes.home
    if terms.causal:
        offset = torch.tensor(terms.q_offset, dtype=torch.int32, device=device)
        parts.append(lambda b, h, i, j: j <= i + offset)
        blocks.append(_causal_blocks(terms.q_offset, shapes))
        kind.append("causal")
    if terms.hides and terms.key_mask is not None:
        seen = terms.key_mask > -torch.inf  # (B|1, Hq|1, 1, Sk)
        parts.append(at(seen))
        blocks.append(_reduce(seen))
        kind.append(("keys", axes_of(seen)))
    if terms.bias is not None:
        seen = terms.bias if terms.bias.dtype == torch.bool else ~hidden(terms.bias.detach())
        some, whole = _reduce(seen)
        if terms.bias.dtype == torch.bool:
            parts.append(at(seen))
            blocks.append((some, whole))
            kind.append(("dense", axes_of(seen)))
        elif not bool(some.all()):  # the bias itself hides the rest, in the scores
            blocks.append((some, torch.ones_like(some)))
    if terms.pattern is not None:
        found = _pattern(terms.pattern, terms.q_offset, shapes)
        parts.append(found.visible)
        blocks.append((found.some, found.whole))
        kind.append(found.kind)
    if not blocks:
        return None
    some, whole = blocks[0]
    for more, entirely in blocks[1:]:
        some, whole = some & more, whole & entirely

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = b.new_ones((), dtype=torch.bool)
        for part in parts:
            seen = seen & part(b, h, i, j)
        return seen

    inside = _inside(shapes)
    return Mask(visible, some & torch.ones_like(inside), whole & some & inside, tuple(kind))


def _counts(shapes: Shapes) -> tuple[int, int]:
    return -(-shapes.Sq // BLOCK), -(-shapes.Sk // BLOCK)


def _inside(shapes: Shapes) -> Tensor:
    """Blocks that end within the tensors: only these may count as whole."""
    m, n = _counts(shapes)
    rows = (torch.arange(m, device=shapes.home) + 1) * BLOCK <= shapes.Sq
    cols = (torch.arange(n, device=shapes.home) + 1) * BLOCK <= shapes.Sk
    return (rows[:, None] & cols)[None, None]


def _causal_blocks(q_offset: int, shapes: Shapes) -> tuple[Tensor, Tensor]:
    m, n = _counts(shapes)
    first_q = torch.arange(m, device=shapes.home)[:, None] * BLOCK
    first_k = torch.arange(n, device=shapes.home) * BLOCK
    last_q = (first_q + BLOCK).clamp(max=shapes.Sq) - 1
    last_k = (first_k + BLOCK).clamp(max=shapes.Sk) - 1
    return first_k <= last_q + q_offset, last_k <= first_q + q_offset


def _tiled(seen: Tensor) -> Tensor:
    """``[..., m, n]`` as ``[..., m / BLOCK, BLOCK, n / BLOCK, BLOCK]``, filled with False."""
    m, n = seen.shape[-2:]
    seen = torch.nn.functional.pad(seen, (0, -n % BLOCK, 0, -m % BLOCK))
    return seen.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK))


def _reduce(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Which blocks of ``[B|1, Hq|1, m|1, n]`` hold a visible pair, and which nothing else."""
    m, n = seen.shape[-2:]
    keys = torch.nn.functional.pad(seen, (0, -n % BLOCK)).unflatten(-1, (-1, BLOCK))
    some = keys.any(-1)
    whole = torch.nn.functional.pad(seen, (0, -n % BLOCK), value=True)
    whole = whole.unflatten(-1, (-1, BLOCK)).all(-1)
    if m == 1:  # the same for all queries (or there is but one)
        return some, whole
    rows = (0, 0, 0, -m % BLOCK)
    some = torch.nn.functional.pad(some, rows).unflatten(-2, (-1, BLOCK)).any(-2)
    whole = torch.nn.functional.pad(whole, rows, value=True).unflatten(-2, (-1, BLOCK)).all(-2)
    return some, whole


def _strips(pattern: Pattern, q_offset: int, shapes: Shapes) -> Iterator[tuple[int, int, Tensor]]:
    """``(block of queries, first block of keys, blocks [B|1,Hq|1, keys, BLOCK, BLOCK])``."""
    for row, a in enumerate(range(0, shapes.Sq, BLOCK)):
        b = min(a + BLOCK, shapes.Sq)
        low, high = pattern.key_range(a + q_offset, b + q_offset, shapes.Sk)
        first, last = max(0, low) // BLOCK, -(-min(high, shapes.Sk) // BLOCK)
        if last <= first:
            continue
        i = torch.arange(a, b, device=shapes.home) + q_offset
        j = torch.arange(first * BLOCK, min(last * BLOCK, shapes.Sk), device=shapes.home)
        seen = pattern.tile(i, j)
        seen = seen.reshape((1,) * (4 - seen.dim()) + tuple(seen.shape))
        seen = seen.expand(*seen.shape[:2], len(i), len(j))
        yield row, first, _tiled(seen)[:, :, 0].transpose(2, 3)


def _by_pair(pattern: Pattern, shapes: Shapes) -> Callable[..., Tensor] | None:
    """A pattern's function of single pairs; None where it has tiles only, as what content chose."""
    own: Callable[..., Tensor] | None = getattr(pattern, "visible", None)
    if own is not None:
        zero = torch.zeros((), dtype=torch.int64, device=shapes.home)
        try:
            own(zero, zero, zero, zero)
        except NotImplementedError:
            return None
    return own


def _pattern(pattern: Pattern, q_offset: int, shapes: Shapes) -> Mask:
    """A pattern's blocks, and its pairs: by its own function, else from its tiles, stored.

    Only blocks visible in part are stored; all others share a block of True or of False.
    """
    m, n = _counts(shapes)
    own = _by_pair(pattern, shapes)
    device = shapes.home
    slots, store, stored = None, [], 2
    some = whole = torch.zeros(1, 1, m, n, dtype=torch.bool, device=device)
    for row, first, blocks in _strips(pattern, q_offset, shapes):
        if slots is None:
            size = (*blocks.shape[:2], m, n)
            some, whole = (torch.zeros(size, dtype=torch.bool, device=device) for _ in "sw")
            slots = torch.zeros(size, dtype=torch.int32, device=device)
        # What lies outside the tensors must not make a block partial: it is never looked at.
        inside = _border(shapes, row, first, blocks.shape[2])
        here = slice(first, first + blocks.shape[2])
        any_seen = blocks.flatten(-2).any(-1)
        all_seen = (blocks | ~inside).flatten(-2).all(-1)
        some[:, :, row, here], whole[:, :, row, here] = any_seen, all_seen
        if own is not None:
            continue
        part = any_seen & ~all_seen
        count = int(part.sum())
        numbers = torch.arange(stored, stored + count, dtype=torch.int32, device=device)
        slots[:, :, row, here] = all_seen.int().masked_scatter(part, numbers)
        store.append(blocks[part])
        stored += count
    if own is not None:
        offset = torch.tensor(q_offset, dtype=torch.int32, device=device)
        held = sorted(getattr(pattern, "__dict__", {}).items())  # numbers become part of a kernel
        kind = (type(pattern), *(item for item in held if isinstance(item[1], int | float | str)))
        return Mask(lambda b, h, i, j: own(b, h, i + offset, j), some, whole, kind)
    plain = torch.zeros(2, BLOCK, BLOCK, dtype=torch.bool, device=device)
    plain[1] = True
    pairs = torch.cat([plain, *store])
    slots = torch.zeros(1, 1, m, n, dtype=torch.int32, device=device) if slots is None else slots
    slot = at(slots)

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return pairs[slot(b, h, i // BLOCK, j // BLOCK), i % BLOCK, j % BLOCK]

    return Mask(visible, some, whole, ("stored", axes_of(slots)))


def _border(shapes: Shapes, row: int, first: int, count: int) -> Tensor:
    """Which pairs of a row of blocks lie within the tensors: ``[count, BLOCK, BLOCK]``."""
    i = torch.arange(row * BLOCK, (row + 1) * BLOCK, device=shapes.home) < shapes.Sq
    j = torch.arange(first * BLOCK, (first + count) * BLOCK, device=shapes.home) < shapes.Sk
    return i[None, :, None] & j.view(count, 1, BLOCK)
